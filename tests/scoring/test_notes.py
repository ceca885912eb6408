"""What is said below scores."""

from utils.scoring.notes import choice_figures, choice_note, leak_note

LIFTED = (
    "by that alone a tuned score looks better than it is, by about 0.007 of macro-F1 if all 5 are equally good "
    "(simulated with 5 checkpoints)."
)


def test_evaluations_that_the_checkpoint_was_chosen_among():
    log = [{"eval_f1_macro_tuned": 0.5}, {"loss": 1.0}, {"eval_f1_macro_tuned": 0.4}]
    assert (
        choice_figures(log, "f1_macro_tuned") == choice_figures(log, "eval_f1_macro_tuned") == {"eval_chosen_among": 2}
    )
    assert choice_figures(log[:2], "f1_macro_tuned") == choice_figures(log, "loss") == {}


def test_words_on_the_choice():
    run = {"eval_chosen_among": 5, "best_metric_name": "f1_macro_tuned"}
    assert choice_note([run]) == (
        f"The checkpoint was chosen on the same rows, as the best of 5 evaluations by f1_macro_tuned: {LIFTED}"
    )
    several = choice_note([run, run | {"eval_chosen_among": 8}])
    assert several.startswith("Checkpoints were chosen on the same rows, each as the best of up to 8 evaluations by")
    assert choice_note([run, run, {}]).startswith(
        "2 of 3 checkpoints were chosen on the same rows, each as the best of 5"
    )
    assert "about 0.002 of macro-F1" in choice_note([run | {"best_metric_name": "map"}])
    # The best of two is lifted by 0.56 standard deviations, that of five by 1.16, that of ten by 1.54.
    for number, lift in ((2, 0.003), (10, 0.009)):
        assert choice_note([run | {"eval_chosen_among": number}]).endswith(
            f"by about {lift} of macro-F1 if all {number} are equally good (simulated with 5 checkpoints, and scaled)."
        )
    assert (
        "by f1_macro_tuned and map: by that alone a tuned score looks better than it is, by about 0.007"
        in choice_note([run, run | {"best_metric_name": "eval_map"}])
    )
    by_ranking = {"eval_chosen_among": 3, "best_metric_name": "lrap"}
    assert choice_note([by_ranking]).endswith(
        "3 evaluations by lrap: by that alone scores look a little better than they are."
    )
    assert choice_note([{}]) == ""


def test_words_on_leaks():
    assert leak_note({}) == ""
    assert leak_note({"eval_leaked_rows": 0, "eval_samples": 886}).endswith("have a near-duplicate in training.")
    said = leak_note({"eval_leaked_rows": 12, "eval_samples": 1886})
    assert said.startswith("12 of 1,886 validation rows have a near-duplicate in training, which makes")

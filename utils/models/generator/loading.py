"""Loading a language model that is to write labels."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from utils.core.arguments import ModelArguments
from utils.core.errors import UserError
from utils.models.approaches import ADAPTER_FILE
from utils.models.loading import keep_gradients, load_pretrained
from utils.models.precision import quantization
from utils.models.sharding import ready_to_shard


def load_generator(
    model_args: ModelArguments, tokenizer: PreTrainedTokenizerBase, complete: bool = False, on_cpu: bool = False
) -> PreTrainedModel:
    """Load a language model that is to write labels.

    An encoder such as BERT is made causal: each token sees those before it, and a language head comes on top.

    Args:
        model_args: which model, in how many bits.
        tokenizer: of the model.
        complete: refuse a model some of whose weights are new and random.
        on_cpu: keep quantised weights there too, which go to the GPU otherwise.

    Raises:
        UserError: for a name that leads nowhere, for LoRA on an encoder, whose new head it would not train, and for an
            adapter, which is no model.
    """
    name, revision = model_args.model_name_or_path, model_args.model_revision
    if (Path(name) / ADAPTER_FILE).exists():
        raise UserError(
            f"{name} is an adapter, not a model: start from its base model, or score the run with compare_runs.py"
        )
    code = model_args.trust_remote_code
    config = load_pretrained(AutoConfig.from_pretrained, name, revision=revision, trust_remote_code=code)
    config.pad_token_id = tokenizer.pad_token_id
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        if model_args.use_peft:
            raise UserError(f"{name} is an encoder: LoRA would not train its new language head; leave --use_peft out")
        config.is_decoder = True
    stored = getattr(config, "quantization_config", None)
    loaded: Any = load_pretrained(
        AutoModelForCausalLM.from_pretrained,
        name,
        config=config,
        revision=revision,
        trust_remote_code=code,
        use_safetensors=True,
        attn_implementation=model_args.attn_implementation,
        dtype=model_args.dtype,
        quantization_config=quantization(model_args) if stored is None else None,
        device_map={"": "cpu"} if on_cpu else None,
        output_loading_info=True,
    )
    model, info = loaded
    if complete and info["missing_keys"]:
        raise UserError(
            f"{name} has no language head ({sorted(info['missing_keys'])[0]} is missing), which must be trained first: "
            "leave --eval_only out"
        )
    ready_to_shard(model)
    keep_gradients(model)
    return model

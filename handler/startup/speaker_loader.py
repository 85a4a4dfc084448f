"""Load the speaker model that DIARIZE_MODEL names."""

from pathlib import Path

from handler.engine.kept_folders import new_folder
from handler.errors import ModelUnavailable
from handler.schema.speakers import SpeakerModel
from handler.settings import Settings
from handler.startup.check_speech import check_speech
from handler.startup.model_locator import find_model, named_by
from handler.timeline import Timeline

PACKAGE = "pkg:moonshine_voice"
FOLDER = Path("speakers/community-1/weights")  # below CACHE_DIR, where the package's models are kept


def load_speakers(settings: Settings, timeline: Timeline) -> SpeakerModel | None:
    """Return the speaker model, or None if the settings name none.

    Raises ModelUnavailable, SettingsError, OutOfMemory or DeviceLost.
    """
    if settings.diarize_model is None:
        return None
    with timeline.span("speakers_loaded"):
        try:
            from handler.speakers.loading import load_speaker_model
        except ImportError as exc:
            raise ModelUnavailable(f"DIARIZE_MODEL needs the package {exc.name}: pip install '.[diarize]'") from exc
        return load_speaker_model(_find(settings), settings, check_speech())


def _find(settings: Settings) -> Path:
    """Return the folder of the model. That of a package is written once, which `asr fetch` does beforehand."""
    assert settings.diarize_model is not None
    if settings.diarize_model != PACKAGE:
        folder = Path(settings.diarize_model)
        if folder.is_dir():
            return folder
        with named_by("DIARIZE_MODEL"):
            return find_model(settings.diarize_model, settings.cache_dir)
    folder = settings.cache_dir / FOLDER
    if not folder.is_dir():
        from handler.speakers.community import write_folder

        try:
            with new_folder(folder) as draft:
                write_folder(draft)
        except OSError as exc:
            if not folder.is_dir():  # another process may have written it
                raise ModelUnavailable(f"DIARIZE_MODEL: {folder} cannot be written: {exc.strerror}") from exc
    return folder

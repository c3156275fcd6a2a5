"""Every name under which something of ours is registered in ModelScope."""

__all__ = ["COMPONENTS", "CRUSE_TYPE", "TASK"]

#: The type of a CRUSE in `configuration.json`; `checkpoint.CRUSE_TYPE` (which imports torch) is held to it by a test.
CRUSE_TYPE = "speech_cruse_ans_16k"
TASK = "acoustic-noise-suppression"

#: (registry, group, type) → module that registers it.
COMPONENTS = {
    ("MODELS", TASK, CRUSE_TYPE): "modelscope_ext.plugin.model",
    ("PREPROCESSORS", "audio", CRUSE_TYPE): "modelscope_ext.plugin.preprocessor",
    ("PIPELINES", TASK, CRUSE_TYPE): "modelscope_ext.plugin.pipeline",
}

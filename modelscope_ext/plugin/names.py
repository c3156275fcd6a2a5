"""Every name under which something of ours is registered in ModelScope."""

__all__ = ["COMPONENTS", "CRUSE_TYPE", "FRCRN_TYPE", "TASK"]

#: The types in `configuration.json`; those in `checkpoint` (which imports torch) are held to them by a test.
CRUSE_TYPE = "speech_cruse_ans_16k"
FRCRN_TYPE = "speech_frcrn_ans_cirm_16k"  # as released; the stock classes go by it too
TASK = "acoustic-noise-suppression"

#: (registry, group, type) → module that registers it.
COMPONENTS = {
    (registry, group, kind): f"modelscope_ext.plugin.{module}"
    for kind in (CRUSE_TYPE, FRCRN_TYPE)
    for registry, group, module in (
        ("MODELS", TASK, "model"),
        ("PREPROCESSORS", "audio", "preprocessor"),
        ("PIPELINES", TASK, "pipeline"),
        ("TRAINERS", "default", "trainer"),
        ("EXPORTERS", TASK, "exporter"),
    )
} | {("METRICS", "default", name): "modelscope_ext.plugin.metric" for name in ("audio-noise-metric", "speech-quality")}

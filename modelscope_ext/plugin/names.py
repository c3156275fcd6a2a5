"""Names of our components in ModelScope."""

from modelscope_ext.models import TYPES

TASK = "acoustic-noise-suppression"

#: (registry, group, type) → the module that registers it.
COMPONENTS = {
    (registry, group, kind): f"modelscope_ext.plugin.{module}"
    for kind in TYPES
    for registry, group, module in (
        ("MODELS", TASK, "model"),
        ("PREPROCESSORS", "audio", "preprocessor"),
        ("PIPELINES", TASK, "pipeline"),
        ("TRAINERS", "default", "trainer"),
        ("EXPORTERS", TASK, "exporter"),
    )
} | {("METRICS", "default", name): "modelscope_ext.plugin.metric" for name in ("audio-noise-metric", "speech-quality")}

"""The packages that networks come from."""

from __future__ import annotations

from kdbench.models.sources import SOURCES, Source

HERE = "kdbench.models.sources"
EXTRA = "pip install 'kdbench[networks]'"

SOURCES.add(
    Source(
        "timm",
        f"{HERE}.from_timm:build",
        "mobilenetv3_small_100",
        package="timm",
        install=EXTRA,
        wanted_input=f"{HERE}.from_timm:wanted_input",
    )
)
SOURCES.add(
    Source(
        "smp",
        f"{HERE}.from_smp:build",
        'Unet(encoder_name="resnet18")',
        package="segmentation_models_pytorch",
        install=EXTRA,
        wanted_input=f"{HERE}.from_smp:wanted_input",
        published=f"{HERE}.from_smp:published",
    )
)
SOURCES.add(
    Source(
        "torchvision",
        f"{HERE}.from_torchvision:build",
        "deeplabv3_mobilenet_v3_large",
        package="torchvision",
        install="pip install torchvision",
        published=f"{HERE}.from_torchvision:published",
    )
)
SOURCES.add(
    Source(
        "transformers",
        f"{HERE}.from_transformers:build",
        "segformer_b0",
        package="transformers",
        install=EXTRA,
    )
)

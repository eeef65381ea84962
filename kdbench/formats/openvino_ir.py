"""OpenVINO's IR: the graph in an .xml, its weights in the .bin beside it."""

from kdbench.formats.base import FORMATS, Format, Need

FORMATS.add(
    Format(
        "openvino",
        "OpenVINO",
        "xml",
        companions={"weights": "bin"},
        precisions=("fp32", "int8"),
        # An IR in fp16 would only be a smaller file.
        unsupported={
            "fp16": "OpenVINO exports are fp32 or int8; it chooses half precision itself where a processor has it"
        },
        needs=(Need("NNCF", "nncf", ("int8",)),),
    )
)

"""How the weights of each precision are written, by what this CPU's 8-bit products can hold."""

from __future__ import annotations

from collections.abc import Mapping

from export.quantise.dynamic import dynamic_product
from export.quantise.integers import SIGNED_7, SIGNED_8, UNSIGNED_8, WeightForm
from export.quantise.replacement import Product
from export.quantise.static import static_product
from export.quantise.weights import weight_product

INTEGER_PRECISIONS = ("int8", "int8_static", "int8_weights")
HALF = "fp16"


def form_of(precision: str, *, saturates: bool) -> WeightForm:
    """The form of a precision's weights, by whether 8-bit products saturate (`serving.kernels.products_saturate`).

    On x86 without VNNI or AMX, sums of uint8 x int8 products saturate; weights of 7 bits cannot reach the limit.
    `MatMulNBits` sums in other ways and keeps 8 bits everywhere.
    """
    if precision == "int8_weights":
        return UNSIGNED_8
    return SIGNED_7 if saturates else SIGNED_8


def product_of(precision: str, form: WeightForm, ranges: Mapping[str, tuple[float, float]]) -> Product:
    """What a precision makes of a matrix product; `ranges` of the inputs are read by int8_static alone."""
    makers = {
        "int8": lambda: dynamic_product(form),
        "int8_static": lambda: static_product(form, ranges),
        "int8_weights": lambda: weight_product(form),
    }
    return makers[precision]()

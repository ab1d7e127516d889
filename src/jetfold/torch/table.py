"""The table of rules: operation → kind (→ tower). A new operation is one line.

Names are those of torch, torch.Tensor, torch.nn.functional and torch.special, which share rules;
`linalg.` and `fft.` say so, `functional.` where torch.nn.functional means something else by a name
than torch, `_VF.` what some functions call when they are given one list. Method, function and
operator forms all find the same line. In-place forms (`add_`) need no line, nor do operations that
PyTorch differentiates in forward mode and whose speed does not matter: they have the general rule.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ..core import special, towers
from . import private
from .arithmetic import IncompleteGamma, Polygamma, Power, Product, Quotient, Sum, Zeta
from .choices import Extreme, Indexed, Pooled, Selection, Where
from .decompositions import (
    algebra,
    entries,
    grids,
    losses,
    networks,
    products,
    reductions,
    segments,
    shapes,
    statistics,
)
from .decompositions.polynomials import RECURRENCES, polynomial
from .decompositions.recurrent import CELLS, layers, one_step
from .forward import MakeDual, UnpackDual
from .hooks_private import RegisterHook
from .lifts import (
    as_strided_past,
    diagonal_past,
    expand_past,
    flatten_past,
    flip_past,
    is_tensor,
    pad_past,
    permute_past,
    reshape_past,
    squeeze_past,
    tile_past,
    transpose_past,
    unfold_past,
    view_as_complex_past,
)
from .matrices import (
    LU,
    QR,
    SVD,
    Cholesky,
    Det,
    Eig,
    Eigh,
    Inverse,
    LUFactor,
    MatrixExp,
    SignLogDet,
    Solve,
    SolveTriangular,
)
from .products import Affine, Bilinear, Convolution, Einsum, Matmul, SparseProduct, StackedMatmul
from .reverse import AutogradGrad, RequiresGrad
from .rules import (
    Along,
    ByDtype,
    ByKeyword,
    Constant,
    Converted,
    Copied,
    Decomposed,
    Elementwise,
    Filled,
    Identity,
    Joined,
    Jointly,
    Linear,
    Mapped,
    Refused,
    Reversed,
    Rule,
    Strided,
    Total,
    Value,
    body,
)


def words(text: str) -> list[str]:
    """The names in a text."""
    return text.split()


def _double(x: Any) -> Any:
    """As torch.float_power takes it."""
    if not is_tensor(x):
        return x
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


BODIES = words(
    "mse_loss l1_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy "
    "binary_cross_entropy_with_logits kl_div poisson_nll_loss gaussian_nll_loss "
    "hinge_embedding_loss cosine_embedding_loss margin_ranking_loss triplet_margin_loss "
    "triplet_margin_with_distance_loss multi_margin_loss multilabel_margin_loss "
    "multilabel_soft_margin_loss nll_loss cross_entropy local_response_norm "
    "lp_pool1d lp_pool2d lp_pool3d embedding_bag grid_sample affine_grid"
)
"""Functions of torch.nn.functional that check their arguments and call one that has a line."""

RULES: dict[str, Rule] = {
    # ---- arithmetic
    "add": Sum(1),
    "__add__": Sum(1),
    "__radd__": Sum(1),
    "sub": Sum(-1),
    "subtract": Sum(-1),
    "__sub__": Sum(-1),
    "rsub": Reversed(torch.sub),
    "__rsub__": Reversed(torch.sub),
    "mul": Product(),
    "multiply": Product(),
    "__mul__": Product(),
    "__rmul__": Product(),
    "div": Quotient(),
    "divide": Quotient(),
    "true_divide": Quotient(),
    "__div__": Quotient(),
    "__truediv__": Quotient(),
    "__rdiv__": Reversed(torch.div),
    "__rtruediv__": Reversed(torch.div),
    "pow": Power(),
    "float_power": Decomposed(lambda input, exponent: _double(input) ** _double(exponent)),
    "__pow__": Power(),
    "__rpow__": Reversed(torch.pow),
    "neg": Linear(lazy=True, entrywise=True),
    "negative": Linear(lazy=True, entrywise=True),
    "__neg__": Linear(lazy=True, entrywise=True),
    "positive": Identity(),
    "__pos__": Identity(),
    "addcmul": Decomposed(entries.addcmul),
    "addcdiv": Decomposed(entries.addcdiv),
    "lerp": Decomposed(entries.lerp),
    "remainder": Decomposed(entries.remainder),
    "__mod__": Decomposed(entries.remainder),
    "__rmod__": Reversed(entries.remainder),
    "fmod": Decomposed(entries.fmod),
    "frac": Decomposed(entries.frac),
    "hypot": Decomposed(entries.hypot),
    "atan2": Decomposed(entries.atan2),
    "arctan2": Decomposed(entries.atan2),
    "xlogy": Decomposed(entries.xlogy),
    "xlog1py": Decomposed(entries.xlog1py),
    "frexp": Decomposed(entries.frexp),
    "copysign": Decomposed(entries.copysign),
    "ldexp": Decomposed(entries.ldexp),
    "complex": Jointly("imag", "imag"),
    "polar": Decomposed(entries.polar),
    # ---- products and contractions
    "sparse.mm": SparseProduct(),
    "smm": SparseProduct(),
    "matmul": Matmul(products.matmul),
    "__matmul__": Matmul(products.matmul),
    "__rmatmul__": Reversed(torch.matmul),
    "linalg.matmul": Matmul(products.matmul),
    "mm": Matmul(products.matmul, mat2="other"),
    "mv": Decomposed(products.matmul, vec="other"),
    "bmm": StackedMatmul(),
    "chain_matmul": Decomposed(products.multi_dot),
    "linalg.multi_dot": Decomposed(products.multi_dot),
    "dot": Decomposed(products.dot, tensor="other"),
    "inner": Decomposed(products.inner),
    "vdot": Decomposed(products.vdot),
    "outer": Decomposed(products.outer),
    "ger": Decomposed(products.outer),
    "linalg.vecdot": Decomposed(products.vecdot),
    "cross": Decomposed(products.first_cross),
    "linalg.cross": Decomposed(products.cross),
    "einsum": Einsum(),
    "tensordot": Decomposed(products.tensordot),
    "addmm": Decomposed(products.addmm),
    "addmv": Decomposed(products.addmm, mat="mat1", vec="mat2"),
    "baddbmm": Decomposed(products.addmm, batch1="mat1", batch2="mat2"),
    "addbmm": Decomposed(products.addbmm),
    "addr": Decomposed(products.addr),
    "linear": Affine(),
    "conv1d": Convolution(),
    "conv2d": Convolution(),
    "conv3d": Convolution(),
    "conv_transpose1d": Convolution(),
    "conv_transpose2d": Convolution(),
    "conv_transpose3d": Convolution(),
    "kron": Bilinear(),
    "bilinear": Decomposed(products.bilinear),
    "matrix_power": Decomposed(products.matrix_power),
    "linalg.matrix_power": Decomposed(products.matrix_power),
    # ---- determinants and linear systems
    "det": Det(),
    "linalg.det": Det(),
    "slogdet": SignLogDet(),
    "linalg.slogdet": SignLogDet(),
    "logdet": Decomposed(products.log_det),
    "inverse": Inverse(),
    "linalg.inv": Inverse(),
    "linalg.solve": Solve(),
    "linalg.solve_ex": Decomposed(products.solve_ex),
    "linalg.inv_ex": Decomposed(products.inv_ex),
    "linalg.solve_triangular": SolveTriangular(),
    "triangular_solve": Decomposed(algebra.triangular_solve),
    "lu_solve": Decomposed(algebra.old_lu_solve),
    "linalg.lu_solve": Decomposed(algebra.lu_solve),
    "linalg.tensorinv": Decomposed(algebra.tensorinv),
    "linalg.tensorsolve": Decomposed(algebra.tensorsolve),
    "linalg.pinv": Decomposed(algebra.pinv),
    "pinverse": Decomposed(algebra.pinv),
    "linalg.lstsq": Decomposed(algebra.lstsq),
    "linalg.cond": Decomposed(algebra.cond),
    "matrix_exp": MatrixExp(),
    "linalg.matrix_exp": MatrixExp(),
    "linalg.vander": Decomposed(algebra.vander),
    "vander": Decomposed(algebra.old_vander),
    "cholesky_inverse": Decomposed(products.cholesky_inverse, input="L"),
    "cholesky_solve": Decomposed(products.cholesky_solve),
    # ---- factorisations
    "cholesky": Cholesky(),
    "linalg.cholesky": Cholesky(),
    "linalg.cholesky_ex": Decomposed(products.cholesky_ex),
    "qr": QR(),
    "linalg.qr": QR(),
    "linalg.lu": LU(),
    "linalg.lu_factor": LUFactor(),
    "linalg.lu_factor_ex": Decomposed(algebra.lu_factor_ex),
    "lu": Decomposed(algebra.old_lu),
    "lu_unpack": Decomposed(algebra.lu_unpack),
    "linalg.householder_product": Decomposed(algebra.householder_product),
    "orgqr": Decomposed(algebra.householder_product),
    "ormqr": Decomposed(algebra.ormqr),
    "linalg.svd": SVD(vectors=True),
    "linalg.svdvals": SVD(vectors=False),
    "svd": Decomposed(algebra.svd),
    "svd_lowrank": Decomposed(body(torch.svd_lowrank)),
    "pca_lowrank": Decomposed(body(torch.pca_lowrank)),
    "linalg.eig": Eig(vectors=True),
    "linalg.eigvals": Eig(vectors=False),
    "linalg.eigh": Eigh(vectors=True),
    "linalg.eigvalsh": Eigh(vectors=False),
    # ---- elementary functions
    "exp": Elementwise(towers.exp),
    "exp2": Elementwise(towers.exp2),
    "expm1": Elementwise(towers.expm1),
    "log": Elementwise(towers.log),
    "log2": Elementwise(towers.log2),
    "log10": Elementwise(towers.log10),
    "log1p": Elementwise(towers.log1p),
    "logit": Elementwise(towers.logit, eps=None),
    "sqrt": Elementwise(towers.sqrt),
    "rsqrt": Elementwise(towers.rsqrt),
    "square": Elementwise(towers.square),
    "reciprocal": Elementwise(towers.reciprocal),
    "sin": Elementwise(towers.sin),
    "cos": Elementwise(towers.cos),
    "tan": Elementwise(towers.tan),
    "asin": Elementwise(towers.asin),
    "arcsin": Elementwise(towers.asin),
    "acos": Elementwise(towers.acos),
    "arccos": Elementwise(towers.acos),
    "atan": Elementwise(towers.atan),
    "arctan": Elementwise(towers.atan),
    "sinh": Elementwise(towers.sinh),
    "cosh": Elementwise(towers.cosh),
    "tanh": Elementwise(towers.tanh),
    "asinh": Elementwise(towers.asinh),
    "arcsinh": Elementwise(towers.asinh),
    "acosh": Elementwise(towers.acosh),
    "arccosh": Elementwise(towers.acosh),
    "atanh": Elementwise(towers.atanh),
    "arctanh": Elementwise(towers.atanh),
    "sinc": Elementwise(towers.sinc),
    "deg2rad": Linear(lazy=True, entrywise=True),
    "rad2deg": Linear(lazy=True, entrywise=True),
    # ---- special functions
    "erf": Elementwise(towers.erf),
    "erfc": Elementwise(towers.erfc),
    "erfinv": Elementwise(towers.erfinv),
    "ndtr": Elementwise(towers.ndtr),
    "lgamma": Elementwise(towers.lgamma),
    "gammaln": Elementwise(towers.lgamma),
    "digamma": Elementwise(towers.digamma),
    "psi": Elementwise(towers.digamma),
    "polygamma": Polygamma(),
    "erfcx": Elementwise(special.erfcx),
    "ndtri": Elementwise(special.ndtri),
    "log_ndtr": Elementwise(special.log_ndtr),
    "entr": Elementwise(special.entr),
    "i0": Elementwise(special.i0),
    "i0e": Elementwise(special.i0e),
    "i1": Elementwise(special.i1),
    "i1e": Elementwise(special.i1e),
    "modified_bessel_i0": Decomposed(torch.special.i0),
    "modified_bessel_i1": Decomposed(torch.special.i1),
    "spherical_bessel_j0": Decomposed(lambda input: torch.sinc(input / math.pi)),
    "zeta": Zeta(),
    "igamma": IncompleteGamma(special.igamma),
    "gammainc": IncompleteGamma(special.igamma),
    "igammac": IncompleteGamma(special.igammac),
    "gammaincc": IncompleteGamma(special.igammac),
    **{name: Decomposed(polynomial(name)) for name in RECURRENCES},
    **{
        name: Decomposed(polynomial(name))
        for name in (f"shifted_{name}" for name in RECURRENCES)
        if hasattr(torch.special, name)
    },
    "mvlgamma": Decomposed(entries.lgamma_sum),
    "multigammaln": Decomposed(entries.lgamma_sum),
    # ---- activations
    "relu": Elementwise(towers.relu),
    "relu6": Elementwise(towers.relu6),
    "leaky_relu": Elementwise(towers.leaky_relu, negative_slope=0.01),
    "prelu": Decomposed(entries.prelu),
    "elu": Elementwise(towers.elu, alpha=1.0),
    "celu": Elementwise(towers.celu, alpha=1.0),
    "selu": Elementwise(towers.selu),
    "sigmoid": Elementwise(towers.sigmoid),
    "expit": Elementwise(towers.sigmoid),
    "logsigmoid": Elementwise(towers.logsigmoid),
    "softplus": Elementwise(towers.softplus, beta=1.0, threshold=20.0),
    "softsign": Elementwise(towers.softsign),
    "silu": Elementwise(towers.silu),
    "mish": Elementwise(towers.mish),
    "gelu": ByKeyword(
        "approximate", none=Elementwise(towers.gelu), tanh=Elementwise(towers.gelu_tanh)
    ),
    "tanhshrink": Elementwise(towers.tanhshrink),
    "hardtanh": Elementwise(towers.hardtanh, min_val=-1.0, max_val=1.0),
    "hardsigmoid": Elementwise(towers.hardsigmoid),
    "hardswish": Elementwise(towers.hardswish),
    "hardshrink": Elementwise(towers.hardshrink, lambd=0.5),
    "softshrink": Elementwise(towers.softshrink, lambd=0.5),
    "threshold": Elementwise(towers.threshold, threshold=0.0, value=0.0),
    "rrelu": Decomposed(entries.rrelu),
    "glu": Decomposed(entries.glu),
    "softmax": Decomposed(reductions.softmax),
    "softmin": Decomposed(reductions.softmin),
    "log_softmax": Decomposed(reductions.log_softmax),
    "logsumexp": Decomposed(reductions.logsumexp),
    "logaddexp": Decomposed(entries.logaddexp),
    "logaddexp2": Decomposed(entries.logaddexp2),
    # ---- kinks and choices
    "abs": ByDtype(Elementwise(towers.abs), Decomposed(entries.absolute)),
    "absolute": ByDtype(Elementwise(towers.abs), Decomposed(entries.absolute)),
    "__abs__": ByDtype(Elementwise(towers.abs), Decomposed(entries.absolute)),
    "clamp": Decomposed(entries.clamp),
    "clip": Decomposed(entries.clamp),
    "clamp_min": Decomposed(entries.clamp_min),
    "clamp_max": Decomposed(entries.clamp_max),
    "maximum": Decomposed(entries.maximum),
    "minimum": Decomposed(entries.minimum),
    "fmax": Decomposed(entries.fmax),
    "fmin": Decomposed(entries.fmin),
    "max": Extreme(torch.maximum),
    "min": Extreme(torch.minimum),
    "amax": Decomposed(reductions.amax),
    "amin": Decomposed(reductions.amin),
    "aminmax": Decomposed(reductions.aminmax),
    "sort": Selection("dim", "descending"),
    "msort": Decomposed(lambda input: torch.sort(input, 0)[0]),
    "topk": Selection("k", "dim", "largest", "sorted"),
    "kthvalue": Selection("k", "dim", "keepdim"),
    "median": Extreme(),
    "nanmedian": Extreme(),
    "mode": Selection("dim", "keepdim"),
    "cummax": Selection("dim"),
    "cummin": Selection("dim"),
    "where": Where(),
    "masked_fill": Decomposed(entries.masked_fill),
    "nan_to_num": Decomposed(entries.nan_to_num),
    # ---- reductions
    "sum": Total(),
    "nansum": Decomposed(reductions.nansum),
    "nanmean": Decomposed(reductions.nanmean),
    "sum_to_size": Decomposed(reductions.sum_to_size),
    "mean": Total(mean=True),
    "trace": Mapped(),
    "cumsum": Along(dim=(1, 0)),
    "logcumsumexp": Decomposed(statistics.logcumsumexp),
    "prod": Decomposed(reductions.prod),
    "cumprod": Decomposed(reductions.cumprod),
    "var": Decomposed(reductions.var),
    "std": Decomposed(reductions.std),
    "var_mean": Decomposed(reductions.var_mean),
    "std_mean": Decomposed(reductions.std_mean),
    "norm": Decomposed(reductions.norm),
    "linalg.norm": Decomposed(reductions.linalg_norm),
    "linalg.vector_norm": Decomposed(reductions.vector_norm),
    "linalg.matrix_norm": Decomposed(algebra.matrix_norm),
    "renorm": Decomposed(statistics.renorm),
    "normalize": Decomposed(reductions.normalize),
    "cosine_similarity": Decomposed(reductions.cosine_similarity),
    "cdist": Decomposed(reductions.cdist),
    "pdist": Decomposed(reductions.pdist),
    "dist": Decomposed(reductions.dist),
    "pairwise_distance": Decomposed(reductions.pairwise_distance),
    "quantile": Decomposed(statistics.quantile),
    "nanquantile": Decomposed(statistics.nanquantile),
    "cov": Decomposed(statistics.cov),
    "corrcoef": Decomposed(statistics.corrcoef),
    "trapezoid": Decomposed(statistics.trapezoid),
    "trapz": Decomposed(statistics.trapezoid),
    "cumulative_trapezoid": Decomposed(statistics.cumulative_trapezoid),
    "gradient": Mapped(),
    # ---- normalisation, attention, losses
    "layer_norm": Decomposed(networks.layer_norm),
    "rms_norm": Decomposed(networks.rms_norm),
    "group_norm": Decomposed(networks.group_norm),
    "instance_norm": Decomposed(networks.native_instance_norm),
    "batch_norm": Decomposed(networks.native_batch_norm),
    "functional.instance_norm": Decomposed(networks.instance_norm),
    "functional.batch_norm": Decomposed(networks.batch_norm),
    "dropout": Decomposed(networks.dropout, train="training"),
    "dropout1d": Decomposed(networks.dropout_channels(1)),
    "dropout2d": Decomposed(networks.dropout_channels(2)),
    "dropout3d": Decomposed(networks.dropout_channels(3)),
    "feature_dropout": Decomposed(networks.feature_dropout, train="training"),
    "alpha_dropout": Decomposed(networks.alpha_dropout, train="training"),
    "feature_alpha_dropout": Decomposed(networks.feature_alpha_dropout, train="training"),
    "gumbel_softmax": Decomposed(body(F.gumbel_softmax)),
    "scaled_dot_product_attention": Decomposed(networks.scaled_dot_product_attention),
    "multi_head_attention_forward": Decomposed(body(F.multi_head_attention_forward)),
    "_weight_norm": Decomposed(networks.weight_norm),
    "functional.embedding": Decomposed(networks.embedding),
    **{f"functional.{name}": Decomposed(body(getattr(F, name))) for name in BODIES},
    "functional.linear_cross_entropy": Decomposed(networks.linear_cross_entropy),
    "mse_loss": Decomposed(losses.mse_loss),
    "l1_loss": Decomposed(losses.l1_loss),
    "smooth_l1_loss": Decomposed(losses.smooth_l1_loss),
    "huber_loss": Decomposed(losses.huber_loss),
    "soft_margin_loss": Decomposed(losses.soft_margin_loss),
    "binary_cross_entropy": Decomposed(losses.binary_cross_entropy),
    "binary_cross_entropy_with_logits": Decomposed(losses.binary_cross_entropy_with_logits),
    "kl_div": Decomposed(losses.kl_div),
    "poisson_nll_loss": Decomposed(losses.poisson_nll_loss),
    "hinge_embedding_loss": Decomposed(losses.hinge_embedding_loss),
    "cosine_embedding_loss": Decomposed(losses.cosine_embedding_loss),
    "margin_ranking_loss": Decomposed(losses.margin_ranking_loss),
    "triplet_margin_loss": Decomposed(losses.triplet_margin_loss),
    "multi_margin_loss": Decomposed(losses.multi_margin_loss),
    "multilabel_margin_loss": Decomposed(losses.multilabel_margin_loss),
    "nll_loss_nd": Decomposed(losses.nll_loss),
    "cross_entropy_loss": Decomposed(losses.cross_entropy_loss),
    "native_layer_norm": Decomposed(networks.native_layer_norm),
    "native_group_norm": Decomposed(networks.native_group_norm),
    "native_batch_norm": Decomposed(networks.plain_batch_norm),
    "_batch_norm_with_update": Decomposed(networks.batch_norm_with_update),
    "_native_batch_norm_legit": Decomposed(networks.plain_batch_norm),
    **{name: Decomposed(layers(name)) for name in CELLS},
    **{f"{name}_cell": Decomposed(one_step(name)) for name in CELLS},
    "embedding_bag": Decomposed(segments.embedding_bag),
    # ---- shapes and indices
    "reshape": Linear(reshape_past, moves=True),
    "view": Linear(reshape_past, moves=True),
    "reshape_as": Linear(lambda b, other: reshape_past(b, other.shape), moves=True),
    "view_as": Linear(lambda b, other: reshape_past(b, other.shape), moves=True),
    "flatten": Linear(flatten_past, moves=True),
    "ravel": Linear(flatten_past, moves=True),
    "unflatten": Decomposed(shapes.unflatten),
    "expand": Linear(expand_past, lazy=True, moves=True),
    "expand_as": Linear(lambda b, other: expand_past(b, other.shape), lazy=True, moves=True),
    "broadcast_to": Linear(expand_past, lazy=True, moves=True),
    "repeat": Linear(tile_past, moves=True),
    "tile": Linear(tile_past, moves=True),
    "repeat_interleave": Mapped(moves=True),
    "transpose": Along(lazy=True, moves=True, dim0=(1, 0), dim1=(2, 0)),
    "swapaxes": Along(lazy=True, moves=True, axis0=(1, 0), axis1=(2, 0)),
    "swapdims": Along(lazy=True, moves=True, dim0=(1, 0), dim1=(2, 0)),
    "t": Linear(transpose_past, lazy=True, moves=True),
    "permute": Linear(permute_past, lazy=True, moves=True),
    "movedim": Along(lazy=True, moves=True, source=(1, 0), destination=(2, 0)),
    "moveaxis": Along(lazy=True, moves=True, source=(1, 0), destination=(2, 0)),
    "adjoint": Linear(lazy=True, moves=True),
    "unsqueeze": Along(lazy=True, moves=True, dim=(1, 0)),
    "squeeze": Linear(squeeze_past, moves=True),
    "flip": Linear(flip_past, moves=True),
    "fliplr": Mapped(moves=True),
    "flipud": Mapped(moves=True),
    "roll": Mapped(moves=True),
    "rot90": Mapped(moves=True),
    "diagonal": Linear(diagonal_past, moves=True),
    "diag": Mapped(moves=True),
    "diag_embed": Mapped(moves=True),
    "diagflat": Decomposed(shapes.diagflat),
    "tril": Linear(entrywise=True),
    "triu": Linear(entrywise=True),
    "unfold": Linear(unfold_past, moves=True),
    "as_strided": Strided(as_strided_past, moves=True),
    "as_strided_scatter": Decomposed(shapes.as_strided_scatter),
    "functional.unfold": Mapped(),
    "fold": Mapped(),
    "narrow": Along(moves=True, dim=(1, 0)),
    "select": Along(moves=True, dim=(1, 0)),
    "index_select": Along(moves=True, dim=(1, 0)),
    "slice": Decomposed(shapes.slice_along),
    "split": Along(moves=True, dim=(2, 0)),
    "split_with_sizes": Along(moves=True, dim=(2, 0)),
    "tensor_split": Along(moves=True, dim=(2, 0)),
    "chunk": Along(moves=True, dim=(2, 0)),
    "unsafe_split": Along(moves=True, dim=(2, 0)),
    "unsafe_chunk": Along(moves=True, dim=(2, 0)),
    "hsplit": Decomposed(shapes.split_along(1)),
    "vsplit": Decomposed(shapes.split_along(0)),
    "dsplit": Decomposed(shapes.split_along(2)),
    "unbind": Along(moves=True, dim=(1, 0)),
    "__getitem__": Indexed(),
    "__reversed__": Decomposed(lambda input: input.flip(0)),
    "gather": Mapped(moves=True),
    "take_along_dim": Decomposed(shapes.take_along_dim),
    "take": Decomposed(shapes.take),
    "masked_select": Decomposed(shapes.masked_select),
    "index_add": Jointly("dim index source", "source"),
    "index_copy": Jointly("dim index source", "source"),
    "index_fill": Jointly("dim index value", "value"),
    "index_put": Jointly("indices values accumulate", "values"),
    "put": Decomposed(shapes.put),
    "scatter": Jointly("dim index src", "src", "value"),
    "scatter_add": Jointly("dim index src", "src"),
    "scatter_reduce": Decomposed(segments.scatter_reduce),
    "index_reduce": Decomposed(segments.index_reduce),
    "segment_reduce": Decomposed(segments.segment_reduce, dim="axis"),
    "combinations": Decomposed(statistics.combinations),
    "fill": Decomposed(shapes.fill),
    "masked_scatter": Decomposed(shapes.masked_scatter),
    "slice_scatter": Jointly("src dim start end step", "src"),
    "select_scatter": Jointly("src dim index", "src"),
    "diagonal_scatter": Jointly("src offset dim1 dim2", "src"),
    "diff": Decomposed(reductions.diff),
    "pad": Linear(pad_past, moves=True),
    "constant_pad_nd": Linear(lambda b, pad, *_, **__: F.pad(b, pad), moves=True),
    "cat": Joined(),
    "concat": Joined(),
    "concatenate": Joined(),
    "stack": Joined(),
    "hstack": Decomposed(shapes.hstack),
    "vstack": Decomposed(shapes.vstack),
    "row_stack": Decomposed(shapes.vstack),
    "dstack": Decomposed(shapes.dstack),
    "column_stack": Decomposed(shapes.column_stack),
    "block_diag": Decomposed(shapes.block_diag),
    "cartesian_prod": Decomposed(shapes.cartesian_prod),
    "atleast_1d": Decomposed(shapes.atleast(1)),
    "_VF._make_dual": MakeDual(),
    "_VF._unpack_dual": UnpackDual(),
    "_VF.atleast_1d": Decomposed(shapes.atleast(1)),
    "atleast_2d": Decomposed(shapes.atleast(2)),
    "_VF.atleast_2d": Decomposed(shapes.atleast(2)),
    "atleast_3d": Decomposed(shapes.atleast(3)),
    "_VF.atleast_3d": Decomposed(shapes.atleast(3)),
    "broadcast_tensors": Decomposed(shapes.broadcast_tensors),
    "meshgrid": Decomposed(shapes.meshgrid),
    "_VF.meshgrid": Decomposed(shapes.meshgrid),
    "real": Converted(),
    "imag": Linear(lazy=True, entrywise=True),
    "conj": Linear(lazy=True, entrywise=True),
    "conj_physical": Linear(lazy=True, entrywise=True),
    "resolve_conj": Converted(),
    "resolve_neg": Converted(),
    "view_as_real": Linear(lazy=True, entrywise=True),
    "view_as_complex": Linear(view_as_complex_past, entrywise=True),
    # ---- pooling and resampling
    "avg_pool1d": Mapped(),
    "avg_pool2d": Mapped(),
    "avg_pool3d": Mapped(),
    "adaptive_avg_pool1d": Mapped(),
    "adaptive_avg_pool2d": Mapped(),
    "adaptive_avg_pool3d": Mapped(),
    "interpolate": Mapped(),
    "max_pool1d": Pooled(F.max_pool1d_with_indices, 1),
    "max_pool1d_with_indices": Pooled(F.max_pool1d_with_indices, 1),
    "max_pool2d": Pooled(F.max_pool2d_with_indices, 2),
    "max_pool2d_with_indices": Pooled(F.max_pool2d_with_indices, 2),
    "max_pool3d": Pooled(F.max_pool3d_with_indices, 3),
    "max_pool3d_with_indices": Pooled(F.max_pool3d_with_indices, 3),
    "adaptive_max_pool1d": Pooled(F.adaptive_max_pool1d_with_indices, 1),
    "adaptive_max_pool1d_with_indices": Pooled(F.adaptive_max_pool1d_with_indices, 1),
    "adaptive_max_pool2d": Pooled(F.adaptive_max_pool2d_with_indices, 2),
    "adaptive_max_pool2d_with_indices": Pooled(F.adaptive_max_pool2d_with_indices, 2),
    "adaptive_max_pool3d": Pooled(F.adaptive_max_pool3d_with_indices, 3),
    "adaptive_max_pool3d_with_indices": Pooled(F.adaptive_max_pool3d_with_indices, 3),
    "functional.fractional_max_pool2d": Pooled(F.fractional_max_pool2d_with_indices, 2),
    "fractional_max_pool2d_with_indices": Pooled(F.fractional_max_pool2d_with_indices, 2),
    "functional.fractional_max_pool3d": Pooled(F.fractional_max_pool3d_with_indices, 3),
    "fractional_max_pool3d_with_indices": Pooled(F.fractional_max_pool3d_with_indices, 3),
    "max_unpool1d": Mapped(),
    "max_unpool2d": Mapped(),
    "max_unpool3d": Mapped(),
    "_upsample_bilinear2d_aa": Mapped(),
    "grid_sampler": Decomposed(grids.grid_sampler),
    "grid_sampler_2d": Decomposed(grids.grid_sampler),
    "grid_sampler_3d": Decomposed(grids.grid_sampler),
    "affine_grid_generator": Mapped(),
    "channel_shuffle": Mapped(moves=True),
    "pixel_shuffle": Mapped(moves=True),
    "pixel_unshuffle": Mapped(moves=True),
    # ---- Fourier transforms
    "fft.fft": Along(dim=(2, -1)),
    "fft.ifft": Along(dim=(2, -1)),
    "fft.rfft": Along(dim=(2, -1)),
    "fft.irfft": Along(dim=(2, -1)),
    "fft.hfft": Along(dim=(2, -1)),
    "fft.fft2": Along(dim=(2, (-2, -1))),
    "fft.ifft2": Along(dim=(2, (-2, -1))),
    "fft.rfft2": Along(dim=(2, (-2, -1))),
    "fft.irfft2": Along(dim=(2, (-2, -1))),
    "fft.fftn": Mapped(),
    "fft.ifftn": Mapped(),
    "fft.rfftn": Mapped(),
    "fft.irfftn": Mapped(),
    "fft.ihfft": Along(dim=(2, -1)),
    "fft.hfft2": Mapped(),
    "fft.ihfft2": Mapped(),
    "fft.hfftn": Mapped(),
    "fft.ihfftn": Mapped(),
    "stft": Decomposed(body(torch.stft)),
    "_VF.stft": Mapped(),
    "istft": Mapped(),
    "fft.fftshift": Mapped(moves=True),
    "fft.ifftshift": Mapped(moves=True),
    # ---- copies, types and devices
    "clone": Copied(),
    **dict.fromkeys(
        words(
            "contiguous to type type_as float double half bfloat16 cfloat cdouble chalf cuda cpu"
        ),
        Converted(),
    ),
    "requires_grad_": RequiresGrad(),
    "retain_grad": Identity(),
    # ---- the value alone
    **dict.fromkeys(
        words(
            "detach __eq__ __ne__ __lt__ __le__ __gt__ __ge__ eq ne lt le gt ge equal allclose "
            "isclose greater greater_equal less less_equal not_equal argmax argmin argsort isnan "
            "isinf isfinite isposinf isneginf isreal isin signbit bool int long short byte char "
            "__bool__ __nonzero__ ndimension dim_order "
            "__len__ __contains__ any all count_nonzero nonzero searchsorted "
            "bucketize logical_and logical_or logical_not logical_xor size dim numel nelement "
            "element_size stride is_floating_point is_complex is_contiguous is_nonzero "
            "is_inference is_same_size is_conj is_neg is_signed is_pinned is_shared data_ptr "
            "storage_offset get_device histc bincount argwhere result_type __format__ "
            "bernoulli multinomial poisson"
        ),
        Value(),
    ),
    # ---- a constant that jets may be written into
    "full_like": Filled(),
    "new_full": Filled(),
    **dict.fromkeys(
        words(
            "zeros_like ones_like empty_like new_zeros new_ones new_empty new_tensor "
            "new_empty_strided rand_like randn_like randint_like sign floor ceil round trunc fix "
            "floor_divide __floordiv__ __rfloordiv__ heaviside"
        ),
        Constant(),
    ),
    "sgn": ByDtype(Constant(), Decomposed(entries.phase)),
    "angle": ByDtype(Constant(), Decomposed(entries.angle)),
    # ---- what cannot work
    **dict.fromkeys(
        words("item tolist __float__ __int__ __index__ __complex__"),
        Refused(
            "a Python number has none: write torch.sin(x) in the place of math.sin(x) or "
            "math.sin(x.item()), or x.detach().item() if the value alone is meant",
            constants=True,
        ),
    ),
    "numpy": Refused("use torch operations in its place", constants=True),
    "__array__": Refused("use torch operations in the place of numpy's", constants=True),
    "grad": AutogradGrad(),
    "backward": Refused(
        "write torch.autograd.grad or torch.func.grad in the function, or call backward on the "
        "result of the operator"
    ),
    "__dlpack__": Refused(
        "use torch operations, and torch.stack for torch.tensor([x, y])", constants=True
    ),
    "__dlpack_device__": Refused(
        "use torch operations; torch.as_tensor(x) is x itself", constants=True
    ),
    "unique": Refused(
        "PyTorch has no derivative for it either; x.detach().unique() is the values", constants=True
    ),
    "unique_consecutive": Refused(
        "PyTorch has no derivative for it; apply it to x.detach()", constants=True
    ),
    **dict.fromkeys(
        words("to_sparse to_sparse_csr to_sparse_csc to_sparse_bsr to_sparse_bsc to_mkldnn"),
        Refused(
            "the values of a sparse matrix carry none: make it of constants, and multiply by it"
        ),
    ),
    "normal": Refused("write mean + std * torch.randn_like(mean), whose noise is constant"),
    "register_hook": RegisterHook(),
}

COPIES = words(
    "as_strided diagonal expand narrow permute split_with_sizes squeeze t transpose unbind unfold "
    "unsqueeze view select split view_as_real view_as_complex"
)
RULES |= {f"{name}_copy": RULES[name] for name in COPIES if hasattr(torch, f"{name}_copy")}
RULES |= {"alias_copy": Copied(), "detach_copy": RULES["detach"]}
RULES |= {
    "linalg.diagonal": Decomposed(
        lambda A, *, offset=0, dim1=-2, dim2=-1: torch.diagonal(A, offset, dim1, dim2)
    )
}

NAMESPACES: dict[str, tuple[Any, ...]] = {
    "": (torch, torch.Tensor, F, torch.special, *private.BUILT_IN, torch.autograd, operator),
    "functional": (F,),
    "linalg": (torch.linalg,),
    "_VF": private.LISTS,
    "fft": (torch.fft,),
    "sparse": (torch.sparse,),
}
"""Where the names are looked up; "functional" where torch.nn.functional means something else."""

NESTED_WRONGLY: dict[str, Callable[..., Any]] = {
    "layer_norm": networks.layer_norm,
    "functional.batch_norm": networks.batch_norm,
    "batch_norm": networks.native_batch_norm,
    "functional.instance_norm": networks.instance_norm,
    "instance_norm": networks.native_instance_norm,
    "det": products.det_by_factors,
    "linalg.det": products.det_by_factors,
    "slogdet": products.slogdet_by_factors,
    "linalg.slogdet": products.slogdet_by_factors,
    "logdet": products.log_det_by_factors,
    "linalg.solve": products.solve_by_inverse,
    "_weight_norm": networks.weight_norm,
    "native_layer_norm": networks.native_layer_norm,
    "native_batch_norm": networks.plain_batch_norm,
    "functional.linear_cross_entropy": networks.linear_cross_entropy,
    "linalg.pinv": algebra.pinv,
    "linalg.householder_product": algebra.householder_product,
    "triangular_solve": algebra.triangular_solve,
    "scatter_reduce": segments.scatter_reduce,
    "index_reduce": segments.index_reduce,
    "modified_bessel_i0": torch.special.i0,
    "modified_bessel_i1": torch.special.i1,
    **{name: polynomial(name) for name in RECURRENCES},
}
"""Functions of which PyTorch 2.13 nests derivatives wrongly, without a word, and substitutes.

Their formulas use an intermediate result (the factors, the mean) that the next derivative takes for
a constant: found by comparing every function of PyTorch's own test database with differences of
derivatives one order lower.
"""

UNDIFFERENTIABLE: frozenset[str] = frozenset(
    words(
        "linalg_eig linalg_eigvals linalg_householder_product linalg_tensorsolve linalg_pinv "
        "linalg_solve_ex native_layer_norm native_batch_norm triangular_solve scatter_reduce "
        "index_reduce linear_cross_entropy chalf normal special_airy_ai special_bessel_j0 "
        "special_bessel_j1 special_bessel_y0 special_bessel_y1 special_modified_bessel_i0 "
        "special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 "
        "special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 "
        "special_spherical_bessel_j0 special_chebyshev_polynomial_t "
        "special_chebyshev_polynomial_u special_chebyshev_polynomial_v "
        "special_chebyshev_polynomial_w special_shifted_chebyshev_polynomial_t "
        "special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v "
        "special_shifted_chebyshev_polynomial_w special_hermite_polynomial_h "
        "special_hermite_polynomial_he special_laguerre_polynomial_l "
        "special_legendre_polynomial_p"
    )
)
"""More of them, by the names in messages and scripts, which nothing replaces there.

The special functions here PyTorch takes for constants."""

VIEWS = frozenset(
    words(
        "view view_as reshape reshape_as flatten ravel unflatten expand expand_as "
        "broadcast_to transpose swapaxes swapdims t permute movedim moveaxis adjoint "
        "unsqueeze squeeze diagonal narrow select split split_with_sizes tensor_split chunk "
        "unbind unfold __getitem__ real imag conj view_as_real view_as_complex"
    )
)
"""Operations whose result may share memory with their argument: in-place writes go both ways."""

READ_ONLY = frozenset(
    words("expand expand_as broadcast_to real imag conj view_as_real view_as_complex")
)
"""Those of them that are not written through: not each entry is one of the base."""


def _by_function() -> dict[Callable[..., Any], str]:
    found = {}
    for key in RULES:
        space, _, name = key.rpartition(".")
        for namespace in NAMESPACES[space]:
            function = getattr(namespace, name, None)
            if callable(function) and (space or function not in found):
                found[function] = key
    return found


NAMES: dict[Callable[..., Any], str] = _by_function()
"""Every PyTorch function that has a rule, with the rule's name."""


def _operation(func: Any) -> list[str]:
    """The namespace and the name of what stands in torch.ops; nothing of other functions."""
    return str(func).split(".")[:2] if isinstance(func, private.OPERATIONS) else []


def key_of_operation(func: Any) -> str | None:
    """The line of torch.ops.aten.name: that of the function of the same name and signature."""
    space, name = _operation(func) or ("", "")
    if space != "aten" or name in OTHERWISE:
        return None
    prefix, _, rest = name.partition("_")
    if prefix in ("linalg", "fft", "special"):
        name = rest if prefix == "special" else f"{prefix}.{rest}"
    return name if name in RULES else None


OTHERWISE = frozenset(
    words(
        "batch_norm instance_norm dropout embedding stft max_pool2d_with_indices mse_loss l1_loss "
        "smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy kl_div poisson_nll_loss "
        "binary_cross_entropy_with_logits hinge_embedding_loss cosine_embedding_loss nll_loss_nd "
        "margin_ranking_loss triplet_margin_loss multi_margin_loss multilabel_margin_loss "
        "cross_entropy_loss"
    )
)
"""Operations whose name is that of a line with another signature, or with other defaults."""


@torch.compiler.assume_constant_result
def is_custom(func: Any) -> bool:
    """Whether a function is an operation that a user made by torch.library."""
    return bool(_operation(func)) and _operation(func)[0] not in ("aten", "prim", "prims")

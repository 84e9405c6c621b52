"""One name for every spelling of a PyTorch function, and what is known of a call by its name alone.

``torch.relu``, ``Tensor.relu_``, ``F.relu`` and ``aten.relu.default`` are all ``relu``.
"""

from __future__ import annotations

import types
from functools import cache
from typing import Any

import torch

__all__ = [
    "ABOUT", "ACTIVATIONS", "AVERAGES", "CONVOLUTIONS", "CUT", "JOINS", "LEARNS", "LIKE", "MAXIMA",
    "MOVES", "PRODUCTS", "RANDOM", "READ", "RELAID", "RESHAPES", "SAME", "TAKES", "TRANSPOSES",
    "VIEWS_IN_PLACE", "plain_name",
]  # fmt: skip


@cache
def plain_name(func: Any) -> str:
    """The one name of a function in all its spellings: no dunder, no overload, no underscore."""
    if isinstance(func, torch._ops.OpOverload):
        name = func._schema.name.partition("::")[2]
    else:
        name = getattr(func, "__name__", type(func).__name__)
        if name in ("__get__", "__set__"):
            about = str(getattr(getattr(func, "__self__", None), "__name__", name))
            return about if name == "__get__" else f"set {about}"
    if name in ("batch_norm", "instance_norm") and not isinstance(func, types.FunctionType):
        return f"aten_{name}"  # as in torch.nn.functional, but for the order of the arguments
    if name == "grad" and getattr(func, "__module__", "") == "torch.autograd":
        return "autograd.grad"
    if name.startswith("__") and name.endswith("__"):
        return _DUNDER.get(name, name)
    name = name if name.startswith("_") else name.rstrip("_")
    return _SYNONYMS.get(name, name)


_SYNONYMS = {"subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div"}
_DUNDER = {
    f"__{p}{name}__": plain
    for p in ("", "i")
    for name, plain in {
        "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "div": "div",
        "matmul": "matmul", "pow": "pow",
    }.items()
} | {
    "__radd__": "add", "__rmul__": "mul", "__rsub__": "rsub", "__rmatmul__": "rmatmul",
    "__rtruediv__": "rdiv", "__rdiv__": "rdiv", "__rpow__": "rpow", "__neg__": "neg",
    "__pos__": "positive", "__abs__": "abs", "__getitem__": "getitem", "__setitem__": "setitem",
}  # fmt: skip


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ABOUT = _words(
    "shape size dim ndim dtype device layout numel nelement is_floating_point is_complex stride "
    "is_cuda is_contiguous get_device storage_offset requires_grad is_leaf element_size itemsize "
    "nbytes names is_sparse is_quantized is_meta is_mkldnn is_nested is_signed is_inference "
    "is_tensor __len__ __hash__ __repr__ __format__ grad grad_fn _base is_cpu is_xpu is_mps "
    "has_names register_hook retain_grad requires_grad_ _is_view is_same_size is_storage "
    "__delete__ _version data_ptr untyped_storage __dlpack_device__ is_conj is_neg is_set_to "
    "is_shared __class__ result_type promote_types can_cast broadcast_shapes iinfo finfo "
    "is_grad_enabled is_pinned output_nr is_distributed _backward_hooks volatile is_sparse_csr "
    "is_vulkan is_maia is_ipu is_xla is_mtia is_hpu retains_grad dim_order"
).union({"set requires_grad", "set grad", "set names", "requires_grad"})
"""Calls about a tensor, not on its numbers."""

READ = _words(
    "numpy tolist item __array__ __bool__ __float__ __int__ __index__ __complex__ __contains__ "
    "is_nonzero equal allclose __dlpack__ __reduce_ex__ __deepcopy__"
)
"""Calls that take the numbers out of PyTorch's sight: they are given them without a gradient."""

CUT = _words("detach data stop_gradient")
"""The gradient ends here, in PyTorch as on the tape."""

LIKE = _words("view_as reshape_as expand_as type_as to")
"""Only the first operand's numbers matter; another gives its shape or type."""

VIEWS_IN_PLACE = _words(
    "squeeze unsqueeze t transpose swapaxes swapdims as_strided movedim moveaxis swap_axes"
)
"""With a trailing underscore these change how a tensor reads its memory, not the memory."""

LEARNS = _words("batch_norm aten_batch_norm native_batch_norm instance_norm aten_instance_norm")
"""With batch statistics these write to the running ones."""

RANDOM = _words(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout "
    "native_dropout rrelu rrelu_with_noise bernoulli binomial poisson normal multinomial "
    "fractional_max_pool2d fractional_max_pool3d gumbel_softmax standard_gamma dirichlet"
)
"""Another run may give another result, so the first one is kept."""

RESHAPES = _words(
    "reshape view flatten unflatten ravel view_as reshape_as squeeze unsqueeze _unsafe_view "
    "atleast_1d atleast_2d atleast_3d"
)
SAME = _words(
    "contiguous clone to float double half bfloat16 type type_as cuda cpu _to_copy alias "
    "masked_fill where tril triu lift_fresh dropout dropout1d dropout2d "
    "dropout3d alpha_dropout feature_dropout feature_alpha_dropout native_dropout "
    "masked_scatter scatter index_copy index_fill index_put slice_scatter select_scatter setitem "
    "write_back copy fill put convert_element_type identity diagonal_scatter as_strided_scatter"
)
RELAID = _words("roll flip fliplr flipud rot90")
"""As large as before, but each number elsewhere."""
MOVES = _words(
    "expand expand_as broadcast_to broadcast_tensors repeat tile repeat_interleave chunk split "
    "split_with_sizes tensor_split hsplit vsplit dsplit unbind select narrow slice getitem "
    "index_select gather take take_along_dim masked_select index pad constant_pad_nd "
    "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
    "replication_pad3d as_strided unfold im2col pixel_shuffle pixel_unshuffle "
    "channel_shuffle diag diagonal diag_embed block_diag unfold_copy narrow_copy "
    "view_as_real view_as_complex real imag conj resolve_conj resolve_neg max_unpool1d "
    "max_unpool2d max_unpool3d affine_grid unsafe_chunk unsafe_split unsafe_split_with_sizes "
    "_unsafe_index _unsafe_index_put meshgrid cartesian_prod combinations"
)
TAKES = RELAID | _words(
    "contiguous clone to float double half bfloat16 cuda cpu alias identity expand expand_as "
    "broadcast_to broadcast_tensors repeat tile repeat_interleave chunk split split_with_sizes "
    "tensor_split hsplit vsplit dsplit unbind select narrow slice getitem index_select"
)
"""Moves all of whose numbers come from the operand: no padding, no constant among them."""
JOINS = _words("cat concat concatenate hstack vstack dstack column_stack row_stack")
TRANSPOSES = _words("permute transpose t T mT H mH swapaxes swapdims movedim moveaxis adjoint")
ACTIVATIONS = _words(
    "sigmoid tanh gelu silu elu selu celu softplus softsign mish hardswish hardsigmoid logsigmoid "
    "log_sigmoid exp exp2 expm1 log log2 log10 log1p sqrt rsqrt abs absolute sin cos tan asin acos "
    "atan arctan arcsin arccos sinh cosh asinh acosh atanh erf erfc erfinv pow float_power rpow "
    "square reciprocal rdiv tanhshrink softshrink hardshrink nan_to_num logit expit sign floor "
    "ceil round trunc frac digamma lgamma sinc xlogy special_expit special_erf special_xlogy "
    "fake_quantize_per_tensor_affine rrelu remainder fmod __mod__ sgn deg2rad rad2deg copysign"
)
AVERAGES = _words(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d mean sum nansum nanmean cumsum "
    "interpolate upsample upsample_bilinear2d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d upsample_bicubic2d upsample_linear1d upsample_trilinear3d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa trace fold col2im grid_sample "
    "grid_sampler grid_sampler_2d index_add scatter_add diff sum_to_size"
)
MAXIMA = _words(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices "
    "max_pool1d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices "
    "adaptive_max_pool3d_with_indices fractional_max_pool2d fractional_max_pool3d max min amax "
    "amin topk sort msort cummax cummin median nanmedian mode kthvalue maximum minimum fmax fmin "
    "aminmax"
)
CONVOLUTIONS = _words(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution "
    "_convolution"
)
PRODUCTS = _words(
    "matmul mm bmm mv dot vdot inner rmatmul einsum tensordot outer ger linalg_matmul"
)

"""Neural networks: the functions that they are made of, layers, and models."""

from distgrad.nn import initializers
from distgrad.nn.attention_layer import MultiHeadAttention
from distgrad.nn.containers import Activation, Dropout, Flatten, Residual, Sequential
from distgrad.nn.convolutions import AvgPool, Conv, ConvTranspose, MaxPool
from distgrad.nn.dense import Dense, Embedding
from distgrad.nn.distances import (
    cosine_embedding,
    margin_ranking,
    pairwise_distance,
    soft_margin,
    triplet_margin,
)
from distgrad.nn.dropout import alpha_dropout, dropout
from distgrad.nn.functional_calls import functional_call
from distgrad.nn.images import pixel_shuffle, pixel_unshuffle, resize
from distgrad.nn.likelihoods import (
    gaussian_negative_log_likelihood,
    poisson_negative_log_likelihood,
)
from distgrad.nn.losses import (
    binary_cross_entropy,
    cosine_similarity,
    hinge,
    huber,
    kl_divergence,
    mean_absolute_error,
    mean_squared_error,
    negative_log_likelihood,
    smooth_l1,
    squared_hinge,
    weighted_sigmoid_cross_entropy,
)
from distgrad.nn.module import Module
from distgrad.nn.norm_layers import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from distgrad.nn.normalization import (
    BatchMoments,
    batch_norm,
    group_norm,
    instance_norm,
    l2_normalize,
    layer_norm,
    rms_norm,
)
from distgrad.nn.patches import fold, unfold
from distgrad.nn.recurrent_layers import GRU, LSTM
from distgrad.nn.relaxed import gumbel_softmax
from distgrad.ops.elementwise.transcendental import tanh
from distgrad.ops.neural.activations import (
    celu,
    elu,
    gelu,
    glu,
    log_sigmoid,
    mish,
    selu,
    silu,
    softmin,
    softsign,
    swish,
    tanh_shrink,
)
from distgrad.ops.neural.adaptive_pooling import (
    adaptive_avg_pool,
    adaptive_max_pool,
    global_avg_pool,
    global_max_pool,
)
from distgrad.ops.neural.attention import scaled_dot_product_attention
from distgrad.ops.neural.convolution import conv, conv_transpose
from distgrad.ops.neural.cross_entropy import sigmoid_cross_entropy, softmax_cross_entropy
from distgrad.ops.neural.ctc import ctc_loss
from distgrad.ops.neural.kinks import (
    hard_shrink,
    hard_sigmoid,
    hard_swish,
    hard_tanh,
    leaky_relu,
    prelu,
    relu,
    relu6,
    soft_shrink,
    threshold,
)
from distgrad.ops.neural.normalization import moments, normalize
from distgrad.ops.neural.pooling import avg_pool, max_pool
from distgrad.ops.neural.recurrent import gru, lstm
from distgrad.ops.neural.softmax import (
    log_softmax,
    one_hot,
    sigmoid,
    softmax,
    softplus,
)
from distgrad.ops.picking.gathering import embedding
from distgrad.ops.products.affine import linear

__all__ = [
    "GRU",
    "LSTM",
    "Activation",
    "AvgPool",
    "BatchMoments",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GroupNorm",
    "LayerNorm",
    "MaxPool",
    "Module",
    "MultiHeadAttention",
    "RMSNorm",
    "Residual",
    "Sequential",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "alpha_dropout",
    "avg_pool",
    "batch_norm",
    "binary_cross_entropy",
    "celu",
    "conv",
    "conv_transpose",
    "cosine_embedding",
    "cosine_similarity",
    "ctc_loss",
    "dropout",
    "elu",
    "embedding",
    "fold",
    "functional_call",
    "gaussian_negative_log_likelihood",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "glu",
    "group_norm",
    "gru",
    "gumbel_softmax",
    "hard_shrink",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "hinge",
    "huber",
    "initializers",
    "instance_norm",
    "kl_divergence",
    "l2_normalize",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "lstm",
    "margin_ranking",
    "max_pool",
    "mean_absolute_error",
    "mean_squared_error",
    "mish",
    "moments",
    "negative_log_likelihood",
    "normalize",
    "one_hot",
    "pairwise_distance",
    "pixel_shuffle",
    "pixel_unshuffle",
    "poisson_negative_log_likelihood",
    "prelu",
    "relu",
    "relu6",
    "resize",
    "rms_norm",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "sigmoid_cross_entropy",
    "silu",
    "smooth_l1",
    "soft_margin",
    "soft_shrink",
    "softmax",
    "softmax_cross_entropy",
    "softmin",
    "softplus",
    "softsign",
    "squared_hinge",
    "swish",
    "tanh",
    "tanh_shrink",
    "threshold",
    "triplet_margin",
    "unfold",
    "weighted_sigmoid_cross_entropy",
]

"""How many weights a transformer has and how many operations it takes, worked out from its sizes alone."""


def dense_parameters(inputs: int, outputs: int, bias: bool = True) -> int:
    """Of a dense layer."""
    return inputs * outputs + (outputs if bias else 0)


def norm_parameters(width: int) -> int:
    """Of a layer norm: a scale and a shift for each number."""
    return 2 * width


def stack_parameters(depth: int, width: int, mlp_width: int) -> int:
    """Of `depth` transformer blocks with self attention."""
    attention = 4 * dense_parameters(width, width)
    feed_forward = dense_parameters(width, mlp_width) + dense_parameters(mlp_width, width)
    return depth * (attention + feed_forward + 2 * norm_parameters(width))


def dense_flops(rows: int, inputs: int, outputs: int) -> int:
    """Of a matrix product of (rows, inputs) with (inputs, outputs): a multiplication and an addition each."""
    return 2 * rows * inputs * outputs


def stack_flops(tokens: int, depth: int, width: int, mlp_width: int) -> int:
    """Of the matrix products of `depth` blocks over `tokens` tokens that all attend to all, as they are computed."""
    projections = dense_flops(tokens, width, 4 * width) + 2 * dense_flops(tokens, width, mlp_width)
    attention = 2 * dense_flops(tokens, width, tokens)
    return depth * (projections + attention)

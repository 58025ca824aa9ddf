"""The words for what can be wrong, and what to do: one vocabulary for check and monitor."""

from __future__ import annotations

NON_FINITE = "non-finite"
SIGNAL_VANISHES = "signal vanishes"
SIGNAL_EXPLODES = "signal explodes"
GRADIENT_VANISHES = "gradient vanishes"
GRADIENT_EXPLODES = "gradient explodes"
STREAM_EXPLODES = "stream explodes"
COLLAPSE = "samples collapse"
OFF = "off the prediction"
LARGE_OUTPUT = "large output"
DYING = "dying"
SATURATED = "saturated"
ONE_HOT = "one-hot attention"
UNIFORM = "uniform attention"
SILENT_BRANCH = "silent branch"
ZERO_BRANCH = "zero-initialized branch"
LAYER_SCALE = "layer scale"
ZERO_HEAD = "zero-initialized head"
NOT_INITIALIZED = "not initialized"
COPIES = "identical weights"
NO_GRADIENT = "no gradient"
VOID_SCALE = "void scale"
UNDERFLOW = "underflow"
TOO_SMALL = "underflow in formats not in use"
TOO_LARGE = "overflow in formats not in use"
NOT_JUDGED = "not judged"
OFF_LAW = "gain off its law"
KNOWS_INPUT = "weights know their input"
KNOWS_GRADIENT = "weights know their gradient"

CRITICAL = (
    'Initialize with sigprop.initialize(model, x, target="critical") (χ = 1), or add normalization '
    "or skips."
)
"""Where a signal or a gradient shrinks or grows through depth."""
OUTPUT = (
    "As logits of a softmax it is sure of classes that it knows nothing of, and its first loss is "
    "far above that of a guess. Give the last layer smaller weights: sigprop.initialize(model, x) "
    "sets it, a tied table too, so that it puts out mean square 1."
)
"""Where what a net puts out is large."""
REVIVE = "Use leaky ReLU or PReLU (a slope above 0 brings them back)"
"""Where units are dead; what else helps depends on whether the net trains already."""
FRESH = "Give it weights: sigprop.initialize(model, x) draws every weight layer from the graph."
"""Where weights were never drawn."""
GATES = (
    "Use fewer recurrent layers behind each other, connections around them, or layer norm; with "
    "their default weights the states are mostly their biases at the start."
)
"""Where recurrent layers make samples alike."""
RESET = "Draw it anew: its own reset_parameters() does; sigprop.initialize leaves it alone."
"""Where the weights of a recurrent layer were never drawn."""
BRANCHES = (
    "Scale the ends of the branches: sigprop.initialize(model, x) sets them so that the stream "
    'grows by e over all blocks; residual= takes another factor, "fixup" or "skipinit".'
)
"""Where a residual stream grows too fast."""
LAW = (
    "Nothing needs to be done if the net has been trained. If sigprop.initialize drew it in "
    "another process, pass the plan: check(model, x, init=plan); "
    "initialize(model, x, report=plans.append) hands it to you. "
    "Else draw it anew with sigprop.initialize(model, x)."
)
"""Where the size of weights is not that of their law."""
ALIGNED = (
    "Nothing needs to be done if the net has been trained or the weights were made from data; else "
    "look for weights that are tied, copied, set from the input, or drawn with the same seed as it."
)
"""Where weights know their input or their gradient."""

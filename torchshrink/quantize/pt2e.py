"""Observers in, quantization out: the parts of torchao's PT2E flow that are used here.

Its own folding of BatchNorm around them is left out: see `torchshrink.quantize.batch_norms`. It also traces about a
hundred patterns to find norms, which takes far longer than all the rest.
"""

from __future__ import annotations

from torch.fx import GraphModule
from torch.fx.passes.infra.pass_manager import PassManager
from torchao.quantization.pt2e.constant_fold import constant_fold
from torchao.quantization.pt2e.convert import _convert_to_reference_decomposed_fx
from torchao.quantization.pt2e.fake_quantize import FixedQParamsFakeQuantize
from torchao.quantization.pt2e.prepare import prepare
from torchao.quantization.pt2e.quantize_pt2e import _quant_node_constraint
from torchao.quantization.pt2e.quantizer import DuplicateDQPass, PortNodeMetaForQDQ
from torchao.quantization.pt2e.utils import _get_node_name_to_scope

from torchshrink.quantize import batch_norms
from torchshrink.quantize.fake import FakeFixed
from torchshrink.quantize.quantizer import TFLiteQuantizer


def observe(graph: GraphModule, quantizer: TFLiteQuantizer) -> GraphModule:
    """Return an exported graph with the observers or fake quantizers that ``quantizer`` wants."""
    scopes = _get_node_name_to_scope(graph)
    graph = quantizer.transform_for_annotation(graph)
    quantizer.annotate(graph)
    if quantizer.is_qat:
        batch_norms.unfold(graph)
    observed: GraphModule = prepare(graph, scopes, quantizer.is_qat, quantizer.prepare_obs_or_fq_callback)
    for name, module in list(observed.named_modules()):
        if type(module) is FixedQParamsFakeQuantize:
            observed.set_submodule(name, FakeFixed(module._observer_ctr))
    return observed


def quantized(graph: GraphModule) -> GraphModule:
    """Return an observed graph with quantize and dequantize nodes, and int8 codes for its weights."""
    graph = _convert_to_reference_decomposed_fx(graph)
    for step in (DuplicateDQPass(), PortNodeMetaForQDQ()):
        graph = PassManager([step])(graph).graph_module
    constant_fold(graph, _quant_node_constraint)
    return graph

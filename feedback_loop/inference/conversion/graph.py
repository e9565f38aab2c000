"""The last touches on a converted graph: two inputs in place of one per column, outputs by our names."""

from __future__ import annotations

from typing import Any

import numpy as np

from feedback_loop.inference.onnx import LABEL, NUMBERS, REFUSED, SCORES, WORDS, Layout

REFUSING = "refusing_row"
"""What the names of tensors begin with that say which rows an encoder does not take."""


COMPUTED = "computed_scores"


def finish(model: Any, layout: Layout, *, classifies: bool, has_scores: bool) -> bytes:
    """The model as a file holds it."""
    graph = model.graph
    _name_outputs(graph, classifies=classifies, has_scores=has_scores)
    _collect_refusals(graph)
    inputs = [tensor.name for tensor in graph.input]
    if inputs not in ([NUMBERS], [WORDS]):
        _join_inputs(graph, layout, inputs)
    _raise_opset(model)
    content: bytes = model.SerializeToString()
    return content


def _raise_opset(model: Any) -> None:
    """`TreeEnsemble` came with version 5 of its domain, and skl2onnx declares 3 at most."""
    if any(node.op_type == "TreeEnsemble" for node in model.graph.node):
        for opset in model.opset_import:
            if opset.domain == "ai.onnx.ml":
                opset.version = 5


def _name_outputs(graph: Any, *, classifies: bool, has_scores: bool) -> None:
    names = [*([LABEL] if classifies else []), *([SCORES] if has_scores else [])]
    del graph.output[len(names) :]
    outputs = [tensor.name for tensor in graph.output]
    renamed = {name: f"{name}_within" for name in names} | dict(zip(outputs, names, strict=False))
    for node in graph.node:
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                if name in renamed:
                    places[place] = renamed[name]
    for output in graph.output:
        output.name = renamed[output.name]
    if has_scores:
        _declare_doubles(graph)


def _declare_doubles(graph: Any) -> None:
    """The scores in double precision, whatever they were computed or (by skl2onnx, at times wrongly) declared in."""
    from onnx import TensorProto, helper

    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == SCORES:
                node.output[place] = COMPUTED
        for place, name in enumerate(node.input):
            if name == SCORES:
                node.input[place] = COMPUTED
    graph.node.append(helper.make_node("Cast", [COMPUTED], [SCORES], to=TensorProto.DOUBLE))
    for output in graph.output:
        if output.name == SCORES:
            output.type.tensor_type.elem_type = TensorProto.DOUBLE


def _collect_refusals(graph: Any) -> None:
    from onnx import TensorProto, helper

    flags = [name for node in graph.node for name in node.output if name.startswith(REFUSING)]
    if flags:
        graph.node.append(helper.make_node("Concat", flags, [REFUSED], axis=1))
        graph.output.append(helper.make_tensor_value_info(REFUSED, TensorProto.BOOL, [None, len(flags)]))


def _join_inputs(graph: Any, layout: Layout, inputs: list[str]) -> None:
    """The columns come out of the two inputs: several at once where they are put together anyway, else one by one."""
    from onnx import TensorProto, helper

    place = {}
    kinds = {tensor.name: tensor.type.tensor_type.elem_type for tensor in graph.input}
    counts = {NUMBERS: 0, WORDS: 0}
    for name in inputs:
        whole = WORDS if kinds[name] == TensorProto.STRING else NUMBERS
        place[name] = (whole, counts[whole])
        counts[whole] += 1
    assert (counts[NUMBERS], counts[WORDS]) == (len(layout.numbers), len(layout.words))
    nodes: list[Any] = []
    for node in graph.node:
        wholes = {place[name][0] for name in node.input if name in place}
        if node.op_type == "Concat" and len(wholes) == 1 and all(name in place for name in node.input):
            whole = wholes.pop()
            picked = [place[name][1] for name in node.input]
            nodes += _picked(graph, whole, picked, counts[whole], node.output[0])
        else:
            nodes.append(node)
    single = sorted({name for node in nodes for name in node.input if name in place}, key=inputs.index)
    taken = [node for name in single for node in _picked(graph, place[name][0], [place[name][1]], -1, name)]
    del graph.node[:]
    graph.node.extend([*taken, *nodes])
    del graph.input[:]
    for whole, kind in ((NUMBERS, TensorProto.DOUBLE), (WORDS, TensorProto.STRING)):
        if counts[whole]:
            graph.input.append(helper.make_tensor_value_info(whole, kind, [None, counts[whole]]))


def _picked(graph: Any, whole: str, columns: list[int], count: int, output: str) -> list[Any]:
    from onnx import helper, numpy_helper

    if columns == list(range(count)):
        return [helper.make_node("Identity", [whole], [output])]
    places = f"{output}_places"
    graph.initializer.append(numpy_helper.from_array(np.array(columns, dtype=np.int64), places))
    return [helper.make_node("Gather", [whole, places], [output], axis=1)]

"""The average of several models as one graph: of each its own, as it is converted by itself, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from feedback_loop.inference.onnx import LABEL, NUMBERS, REFUSED, SCORES, WORDS


def is_average(estimator: Any) -> bool:
    """Whether an estimator answers with the mean of what its members answer, probabilities or numbers."""
    from sklearn.ensemble import VotingClassifier, VotingRegressor

    return isinstance(estimator, VotingRegressor) or (
        isinstance(estimator, VotingClassifier) and estimator.voting == "soft"
    )


def averaged(average: Any, contents: Sequence[bytes]) -> bytes:
    """One file of the members' files, which have the same two inputs; of a classifier also the likeliest class."""
    import onnx
    from onnx import TensorProto, helper

    members = [onnx.load_model_from_string(content) for content in contents]
    nodes, initializers, refusals = [], [], []
    for place, member in enumerate(members):
        refusals += _rename(member.graph, f"m{place}_")
        nodes += list(member.graph.node)
        initializers += list(member.graph.initializer)

    def constant(name: str, values: Any) -> str:
        initializers.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    weights = average._weights_not_none  # noqa: SLF001 (those of members that were not dropped)
    scores = [f"m{place}_{SCORES}" for place in range(len(members))]
    if weights is not None:
        for place, weight in enumerate(np.asarray(weights, dtype=np.float64)):
            weighted = f"weighted_{place}"
            nodes.append(helper.make_node("Mul", [scores[place], constant(f"weight_{place}", weight)], [weighted]))
            scores[place] = weighted
    total = float(np.sum(weights)) if weights is not None else float(len(members))
    nodes.append(helper.make_node("Sum", scores, ["summed"]))
    nodes.append(helper.make_node("Div", ["summed", constant("total", total)], [SCORES]))
    classes = getattr(average, "classes_", None)
    width = 1 if classes is None else len(classes)
    outputs = [helper.make_tensor_value_info(SCORES, TensorProto.DOUBLE, [None, width])]
    if classes is not None:
        is_word = classes.dtype.kind in "OUS"
        initializers.append(_classes(classes, is_word=is_word))
        nodes.append(helper.make_node("ArgMax", [SCORES], ["likeliest"], axis=1, keepdims=0))
        nodes.append(helper.make_node("Gather", ["classes", "likeliest"], [LABEL], axis=0))
        kind = TensorProto.STRING if is_word else TensorProto.INT64
        outputs.insert(0, helper.make_tensor_value_info(LABEL, kind, [None]))
    if refusals:
        nodes.append(helper.make_node("Concat", refusals, [REFUSED], axis=1))
        outputs.append(helper.make_tensor_value_info(REFUSED, TensorProto.BOOL, [None, None]))
    inputs = {tensor.name: tensor for member in members for tensor in member.graph.input}
    graph = helper.make_graph(nodes, "average", [inputs[name] for name in sorted(inputs)], outputs, initializers)
    versions: dict[str, int] = {}
    for opset in (opset for member in members for opset in member.opset_import):
        versions[opset.domain] = max(opset.version, versions.get(opset.domain, 0))
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    made = helper.make_model(graph, opset_imports=imports, ir_version=max(member.ir_version for member in members))
    content: bytes = made.SerializeToString()
    return content


def _rename(graph: Any, prefix: str) -> list[str]:
    """Puts a prefix before all names but the inputs'; returns the tensors that say which rows are refused."""
    for node in graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise NotImplementedError(f"an average of graphs within graphs ({node.op_type})")
        node.name = ""  # names of nodes say nothing, and may not be there twice
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                if name and name not in (NUMBERS, WORDS):
                    places[place] = prefix + name
    for tensor in graph.initializer:
        tensor.name = prefix + tensor.name
    return [prefix + output.name for output in graph.output if output.name == REFUSED]


def _classes(classes: Any, *, is_word: bool) -> Any:
    from onnx import helper, numpy_helper

    if is_word:
        return helper.make_tensor("classes", 8, classes.shape, [str(word).encode() for word in classes])  # 8: strings
    return numpy_helper.from_array(np.asarray(classes, dtype=np.int64), "classes")

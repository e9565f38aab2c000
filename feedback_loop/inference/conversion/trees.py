"""Trees, forests and boosting as one operator, `TreeEnsemble` of ai.onnx.ml 5: doubles from threshold to sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from feedback_loop.inference.conversion.building import (
    Builder,
    classifier_shape,
    doubles,
    put_class,
    put_likeliest,
    put_pair,
    regressor_shape,
)
from feedback_loop.inference.conversion.encoders import encoded

AT_MOST, IS_MEMBER = 0, 6
"""The operator's modes of a node: `x <= split`, and `x` one of a set."""


MOST_CODES = 256
"""So many categories a column of a histogram boosting has at most."""


@dataclass
class Ensemble:
    """The operator's attributes, gathered tree by tree."""

    targets: int
    roots: list[int] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    missing_true: list[int] = field(default_factory=list)
    true_ids: list[int] = field(default_factory=list)
    true_leafs: list[int] = field(default_factory=list)
    false_ids: list[int] = field(default_factory=list)
    false_leafs: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    leaf_targets: list[int] = field(default_factory=list)
    members: list[float] = field(default_factory=list)

    def node(self, feature: int, split: float, *, mode: int = AT_MOST, missing_true: bool = False) -> int:
        """A new inner node, whose ends are set when they are known."""
        self.features.append(feature)
        self.splits.append(split)
        self.modes.append(mode)
        self.missing_true.append(int(missing_true))
        for values in (self.true_ids, self.true_leafs, self.false_ids, self.false_leafs):
            values.append(0)
        return len(self.features) - 1

    def leaf(self, target: int, weight: float) -> int:
        """A new leaf that adds a weight to a target."""
        self.weights.append(weight)
        self.leaf_targets.append(target)
        return len(self.weights) - 1

    def end(self, node: int, *, true: tuple[int, int], false: tuple[int, int]) -> None:
        """Sets where a node leads: each a pair of a place and whether it is a leaf's."""
        self.true_ids[node], self.true_leafs[node] = true
        self.false_ids[node], self.false_leafs[node] = false

    def put(self, builder: Builder, rows: str) -> str:
        """The operator; returns its sums, one column per target."""
        from onnx import numpy_helper

        def tensor(values: list[Any], kind: Any) -> Any:
            return numpy_helper.from_array(np.array(values, dtype=kind))

        more = {"membership_values": tensor(self.members, np.float64)} if self.members else {}
        return builder.add(
            "TreeEnsemble",
            rows,
            domain="ai.onnx.ml",
            aggregate_function=1,
            post_transform=0,
            n_targets=self.targets,
            tree_roots=self.roots,
            nodes_featureids=self.features,
            nodes_splits=tensor(self.splits, np.float64),
            nodes_modes=tensor(self.modes, np.uint8),
            nodes_missing_value_tracks_true=self.missing_true,
            nodes_truenodeids=self.true_ids,
            nodes_trueleafs=self.true_leafs,
            nodes_falsenodeids=self.false_ids,
            nodes_falseleafs=self.false_leafs,
            leaf_weights=tensor(self.weights, np.float64),
            leaf_targetids=self.leaf_targets,
            **more,
        )

    def add_tree(self, tree: Any, target: int, weights: np.ndarray[Any, Any]) -> None:
        """scikit-learn's tree; `weights` has what each of its nodes adds to the target, if it is a leaf."""
        left, right = tree.children_left.tolist(), tree.children_right.tolist()
        features, thresholds = tree.feature.tolist(), tree.threshold.tolist()
        goes_left = getattr(tree, "missing_go_to_left", np.zeros(len(left), dtype=bool)).tolist()

        def begin(old: int) -> int | None:
            if left[old] < 0:
                return None
            return self.node(features[old], thresholds[old], missing_true=bool(goes_left[old]))

        self._walk(begin, lambda old: (left[old], right[old]), lambda old: self.leaf(target, float(weights[old])))

    def add_predictor(self, predictor: Any, target: int) -> None:
        """A tree of scikit-learn's histogram boosting, with splits by sets of categories."""
        nodes = predictor.nodes

        def begin(old: int) -> int | None:
            node = nodes[old]
            if node["is_leaf"]:
                return None
            missing = bool(node["missing_go_to_left"])
            feature = int(node["feature_idx"])
            if not node["is_categorical"]:
                return self.node(feature, float(node["num_threshold"]), missing_true=missing)
            bits = predictor.raw_left_cat_bitsets[node["bitset_idx"]]
            codes = [float(code) for code in range(MOST_CODES) if bits[code // 32] >> np.uint32(code % 32) & 1]
            self.members += codes or [float(MOST_CODES)]  # where only the missing go left: a code that none has
            self.members.append(float("nan"))  # the end of this node's set
            return self.node(feature, 0.0, mode=IS_MEMBER, missing_true=missing)

        self._walk(
            begin,
            lambda old: (int(nodes[old]["left"]), int(nodes[old]["right"])),
            lambda old: self.leaf(target, float(nodes[old]["value"])),
        )

    def _walk(
        self,
        begin: Callable[[int], int | None],
        ends: Callable[[int], tuple[int, int]],
        leaf: Callable[[int], int],
    ) -> None:
        root = begin(0)
        if root is None:  # a tree without a question: one whose answers are the same
            root = self.node(0, 0.0)
            self.roots.append(root)
            end = (leaf(0), 1)
            self.end(root, true=end, false=end)
            return
        self.roots.append(root)
        waiting = [(0, root)]
        while waiting:
            old, new = waiting.pop()
            children = []
            for child in ends(old):
                node = begin(child)
                children.append((leaf(child), 1) if node is None else (node, 0))
                if node is not None:
                    waiting.append((child, node))
            self.end(new, true=children[0], false=children[1])


def converters() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Our converters of trees."""
    import sklearn.ensemble as several
    from sklearn import tree

    return {
        tree.DecisionTreeClassifier: _forest_classifier,
        tree.ExtraTreeClassifier: _forest_classifier,
        several.RandomForestClassifier: _forest_classifier,
        several.ExtraTreesClassifier: _forest_classifier,
        tree.DecisionTreeRegressor: _forest_regressor,
        tree.ExtraTreeRegressor: _forest_regressor,
        several.RandomForestRegressor: _forest_regressor,
        several.ExtraTreesRegressor: _forest_regressor,
        several.GradientBoostingClassifier: _boosting_classifier,
        several.GradientBoostingRegressor: _boosting_regressor,
        several.HistGradientBoostingClassifier: _histogram_classifier,
        several.HistGradientBoostingRegressor: _histogram_regressor,
    }


def shapes() -> dict[type, Callable[[Any], None]]:
    """What they put out."""
    return {
        kind: classifier_shape
        if kind.__name__.endswith("Classifier")
        else regressor_shape(lambda model: int(getattr(model, "n_outputs_", 1)))
        for kind in converters()
    }


def _rows(builder: Builder, operator: Any, *, single: bool) -> str:
    """The input; scikit-learn's own trees round it to single precision (and only it) before they compare."""
    rows = doubles(builder, operator)
    return builder.cast(builder.cast(rows, np.float32), np.float64) if single else rows


def _members(model: Any) -> list[Any]:
    return [estimator.tree_ for estimator in getattr(model, "estimators_", [model])]


def _forest(builder: Builder, operator: Any, columns: Iterable[int], values: Callable[[Any, int], Any]) -> str:
    """The mean over the trees of some columns of their leaves' values."""
    trees, places = _members(operator.raw_operator), list(columns)
    rows = _rows(builder, operator, single=True)
    sums = []
    for place in places:  # a leaf adds to one target: the others need trees of their own
        ensemble = Ensemble(1)
        for tree in trees:
            ensemble.add_tree(tree, 0, values(tree, place))
        sums.append(ensemble.put(builder, rows))
    return builder.add("Div", builder.concat(sums), builder.constant([[float(len(trees))]]))


def _forest_classifier(scope: Any, operator: Any, container: Any) -> None:
    builder, model = Builder(scope, container), operator.raw_operator
    if model.n_outputs_ > 1:
        raise NotImplementedError("a forest of several outputs")
    classes = len(model.classes_)

    def share(tree: Any, place: int) -> Any:
        values = tree.value[:, 0, :]
        return values[:, place] / values.sum(axis=1)

    if classes == 2:
        both = put_pair(builder, operator, _forest(builder, operator, [1], share))
    else:
        both = builder.add(
            "Identity", _forest(builder, operator, range(classes), share), output=operator.outputs[1].full_name
        )
    put_likeliest(builder, operator, both)


def _forest_regressor(scope: Any, operator: Any, container: Any) -> None:
    builder, model = Builder(scope, container), operator.raw_operator
    outputs = range(model.n_outputs_)
    mean = _forest(builder, operator, outputs, lambda tree, place: tree.value[:, place, 0])
    builder.add("Identity", mean, output=operator.outputs[0].full_name)


def _boosted(builder: Builder, operator: Any, start: np.ndarray[Any, Any]) -> str:
    model = operator.raw_operator
    ensemble = Ensemble(model.estimators_.shape[1])
    for stage in model.estimators_:
        for target, tree in enumerate(stage):
            ensemble.add_tree(tree.tree_, target, model.learning_rate * tree.tree_.value[:, 0, 0])
    sums = ensemble.put(builder, _rows(builder, operator, single=True))
    return builder.add("Add", sums, builder.constant(start.reshape(1, -1)))


def _start(model: Any) -> np.ndarray[Any, Any]:
    """What a boosting begins with, where that is the same for every row."""
    from sklearn.dummy import DummyClassifier, DummyRegressor

    if not isinstance(model.init_, str) and not isinstance(model.init_, DummyClassifier | DummyRegressor):
        raise NotImplementedError(f"boosting that begins with a {type(model.init_).__name__}")
    row = np.zeros((1, model.n_features_in_), dtype=np.float32)
    start: np.ndarray[Any, Any] = model._raw_predict_init(row)  # noqa: SLF001 (no public method says it)
    return start


def _boosting_classifier(scope: Any, operator: Any, container: Any) -> None:
    builder, model = Builder(scope, container), operator.raw_operator
    raw = _boosted(builder, operator, _start(model))
    if model.loss == "exponential":
        raw = builder.add("Mul", raw, builder.constant([[2.0]]))
    _probable(builder, operator, raw, at_least=True)


def _boosting_regressor(scope: Any, operator: Any, container: Any) -> None:
    builder = Builder(scope, container)
    raw = _boosted(builder, operator, _start(operator.raw_operator))
    builder.add("Identity", raw, output=operator.outputs[0].full_name)


def _histogram(builder: Builder, operator: Any) -> str:
    model = operator.raw_operator
    start = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(1, -1)  # noqa: SLF001
    ensemble = Ensemble(start.shape[1])
    for stage in model._predictors:  # noqa: SLF001 (scikit-learn shows its trees nowhere else)
        for target, predictor in enumerate(stage):
            ensemble.add_predictor(predictor, target)
    return builder.add("Add", ensemble.put(builder, _categorized(builder, operator)), builder.constant(start))


def _categorized(builder: Builder, operator: Any) -> str:
    """The input as a histogram boosting's trees take it: its categories encoded, and before the numbers."""
    rows, inner = doubles(builder, operator), operator.raw_operator._preprocessor  # noqa: SLF001
    if inner is None:
        return rows
    parts = []
    for name, part, mask in inner.transformers_:
        places = np.flatnonzero(mask).tolist()
        if name == "encoder":
            parts += encoded(builder, part, [(builder.pick(rows, [place]), False) for place in places])
        elif places:
            parts.append(builder.pick(rows, places))
    return builder.concat(parts)


def _histogram_classifier(scope: Any, operator: Any, container: Any) -> None:
    builder = Builder(scope, container)
    _probable(builder, operator, _histogram(builder, operator), at_least=False)


def _histogram_regressor(scope: Any, operator: Any, container: Any) -> None:
    builder = Builder(scope, container)
    raw = _histogram(builder, operator)
    link = "Exp" if operator.raw_operator.loss in ("poisson", "gamma") else "Identity"
    builder.add(link, raw, output=operator.outputs[0].full_name)


def _probable(builder: Builder, operator: Any, raw: str, *, at_least: bool) -> None:
    """Probabilities of raw scores; of two classes the second is answered from (or above) zero on."""
    if len(operator.raw_operator.classes_) > 2:
        builder.add("Softmax", raw, output=operator.outputs[1].full_name, axis=1)
        put_likeliest(builder, operator, raw)
        return
    put_pair(builder, operator, builder.add("Sigmoid", raw))
    test = "GreaterOrEqual" if at_least else "Greater"
    put_class(builder, operator, builder.cast(builder.add(test, raw, builder.constant([[0.0]])), np.int64))

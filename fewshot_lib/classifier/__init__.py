"""Your own data (09): a few labelled examples in, labels for the rest out, by any method of the library.

``FewShotClassifier`` has scikit-learn's interface (``estimator``). What it is given is recognised
(``inputs``, ``naming``), made features by an encoder and by their words (``words``), put
to a method as one large episode (``methods``), and judged by its own examples
(``held_out``); its encoder can be tuned (``tuning``); it says what to label next (``suggestion``), why
(``explanation``), is kept without pickle (``saving``), and written for programs without torch (``onnx``).
"""

from fewshot_lib.classifier.estimator import FewShotClassifier, Labelled
from fewshot_lib.classifier.explanation import Explanation
from fewshot_lib.classifier.held_out import HeldOut, wilson
from fewshot_lib.classifier.inputs import picture_form
from fewshot_lib.classifier.tuning import TunedEncoder
from fewshot_lib.classifier.unlabelled import are_examples
from fewshot_lib.classifier.words import WithWords, Words, without_words

"""Fine-tuning (03): start a head at the prototypes, and let it descend the support's loss (``heads``).

The encoder may descend with it (``encoder``), and the queries may take part (``transductive``). Settings are
chosen on validation classes, never on those that are reported (``selection``).
"""

from fewshot_lib.finetuning.encoder import CosineClassifier, EncoderFineTuning
from fewshot_lib.finetuning.heads import FineTuning, entropy
from fewshot_lib.finetuning.selection import choose, evaluate_steps, grid
from fewshot_lib.finetuning.transductive import TIM, TransductiveFineTuning, marginal_entropy

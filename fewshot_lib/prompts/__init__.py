r"""Prompts (05, 06): classification as a question with a gap, tuned questions, and a start that is learnt.

    h(x) = LM(E[T(x)]) at [MASK]                              a template T, its gap filled by a language model
    s_k = e_k · h + b_k   or   cos(h, c_k) / τ                a verbalizer: words or examples of class k
    θ ← θ − α ∇ L_support(θ)                                  a soft prompt θ in T, tuned on an episode
    min over θ of the mean of L_query(θ − α ∇ L_support(θ))   MetaPrompting: where it should start

Schick and Schütze (2021, arXiv:2001.07676): cloze questions; Lester et al. (2021, arXiv:2104.08691): soft
prompts; Hou et al. (2022, arXiv:2209.11486): MetaPrompting; Jiang et al. (2023, arXiv:2306.00618): a pool of
prompts, and RepVerb.
"""

from fewshot_lib.prompts.meta import MetaPrompting, meta_prompter, prompt_pool, train_metaprompting
from fewshot_lib.prompts.model import PromptModel
from fewshot_lib.prompts.templates import Template, initial_prompt, mask_features
from fewshot_lib.prompts.tuning import PromptTuning
from fewshot_lib.prompts.verbalizers import LabelEmbedding, Mixture, RepVerb, Verbalizer, Words, class_words

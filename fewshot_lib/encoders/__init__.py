"""Encoders f: an image or a text goes in, a vector comes out; and a language model that fills gaps in texts.

Conv4 for images, EfficientNet-Lite0 for photos (Tan and Le 2019, arXiv:1905.11946), all-MiniLM-L6-v2 for
texts (Wang et al. 2020, arXiv:2002.10957; Reimers and Gurevych 2019, arXiv:1908.10084), with LoRA adapters
where it is to be trained. transformers, peft and scikit-learn are imported by the functions that need them:
they take seconds.
"""

from fewshot_lib.encoders.features import (
    TextsCut,
    by_length,
    check_texts,
    encode,
    encoder_fingerprint,
    extract_features,
    raw_features,
    warn_of_cut,
)
from fewshot_lib.encoders.images import Conv4
from fewshot_lib.encoders.installed import shipped_file
from fewshot_lib.encoders.language_model import MaskedLM, load_masked_lm, untrained
from fewshot_lib.encoders.photos import PhotoEncoder
from fewshot_lib.encoders.text import (
    TextEncoder,
    TokenEncoder,
    add_lora,
    check_max_tokens,
    count_tokens,
    tokenise,
    tokens_of,
    with_lora,
)

"""What the tests of prompts share: language models so small that a test can compute by hand what they say."""

import pytest
import torch

WORDS = """[PAD] [UNK] [CLS] [SEP] [MASK] . ? : the topic is what a of graph node path edge signal wave sound
noise font letter glyph net ##work ##s in to and with""".split()
SIZES = {"vocab_size": len(WORDS), "max_position_embeddings": 64, "pad_token_id": 0}
BERT = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16} | SIZES
DISTILBERT = {"dim": 12, "n_layers": 2, "n_heads": 2, "hidden_dim": 16} | SIZES


@pytest.fixture
def tiny_lm():
    """Makes a random masked language model of a kind, in float64, with weights so large that it matters."""
    import transformers  # seconds to import: only the tests that use it wait for it

    from fewshot_lib.encoders import MaskedLM

    configs = {
        "bert": transformers.BertConfig(**BERT),
        "roberta": transformers.RobertaConfig(**BERT),
        "distilbert": transformers.DistilBertConfig(**DISTILBERT),
    }

    def make(kind: str = "bert", seed: int = 0, max_tokens: int = 24) -> MaskedLM:
        torch.manual_seed(seed)
        model = transformers.AutoModelForMaskedLM.from_config(
            configs[kind], attn_implementation="eager"
        ).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        return MaskedLM(
            model, transformers.BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}), max_tokens
        )

    return make

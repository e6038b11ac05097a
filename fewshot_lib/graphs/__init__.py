"""Chapter 07: an episode as a graph, and classifiers that pass messages on it.

A support tells its class, a class tells a query; whom a node listens to, attention decides. Where no edge
leaves a query, no query can help another: that is what inductive means on a graph. Two families read it: the
GAT-Transformer projects features, relational attention knows only how nodes are related.
"""

from fewshot_lib.graphs.attention import GATAttention, GATv2Attention, ranking_count
from fewshot_lib.graphs.combined import Combined
from fewshot_lib.graphs.episode_graph import EpisodeGraph, NodeKind, Relation, episode_graph, reaches
from fewshot_lib.graphs.gat_transformer import Blocks, GATTransformer
from fewshot_lib.graphs.in_context import InContext
from fewshot_lib.graphs.relational import RelationalNetwork, Relations
from fewshot_lib.graphs.shipped import load_relational

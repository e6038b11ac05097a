"""What every chapter needs (01): episodes, their evaluation, training, and how arguments are refused.

A *method* is a function of E episodes at once, of N ways, K shots and M queries each,

    support (E, N, K, d), query (E, M, d)  ->  logits (E, M, N),

that declares whether it is ``transductive``: whether an answer may depend on the other queries.
"""

from fewshot_lib.core.checkpoints import History, Settings, Stateful, data_facts, digest
from fewshot_lib.core.checks import (
    a_list,
    check_axes,
    check_shapes,
    check_steps,
    extra,
    feature_rows,
    numbers,
    one_of,
    positive,
    random_numbers,
    rate,
    whole_number,
    whole_numbers,
)
from fewshot_lib.core.distributed import (
    CommonBatchNorm,
    in_shares,
    leads,
    mean_over_processes,
    processes,
    start_alike,
)
from fewshot_lib.core.episodes import Episodes, EpisodeSampler, look_up, shot_range, with_fewer_queries
from fewshot_lib.core.evaluation import (
    EpisodeResults,
    Method,
    PairedDifference,
    accuracy_per_episode,
    compare_paired,
    evaluate,
    few_shot_method,
    half_width,
    masked_mean,
    mean_interval,
    over_seeds,
    usable,
)
from fewshot_lib.core.training import (
    Loop,
    autocast,
    bfloat16_asked,
    evaluation_mode,
    fit,
    for_model,
    keep_memory,
    one_cycle,
    pick_device,
    seed_everything,
    train_classifier,
)

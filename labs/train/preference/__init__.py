"""Preference optimisation: DPO and its family on the common loop. Chapter 6.

from labs.train.preference.config import PreferenceConfig
from labs.train.preference.trainer import train_preference
result = train_preference(model, processor, pairs, held_out, config, PreferenceConfig("dpo"))
"""

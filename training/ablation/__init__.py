"""The paper's Table 1 in small: ten rows, equal budgets, several seeds; `python -m training.ablation`."""

"""Which strength of a perturbation tells the models of a bank apart."""

"""The methods: each a frozen set of options that can be called on a model and an input."""

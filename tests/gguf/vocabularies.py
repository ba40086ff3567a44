"""Vocabularies as converters write them."""


def chatglm(model):
    pass


def bert(model):
    pass

"""Classes of texts. To be read in the order in which the data flows:

tables, columns, reading: files -> rows -> columns -> checked texts; sets: train, dev and test
encoding: texts -> ids
metrics, confusion, task: logits -> classes -> scores and files, as the loop in `train.py` sees it
classify, probe, commands: what is asked of a trained model
"""

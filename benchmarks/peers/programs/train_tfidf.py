"""scikit-learn: TF-IDF of words and pairs of words, logistic regression for each label."""

import numpy as np
from settings import read_settings
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

settings, train, validation = read_settings()
model = make_pipeline(
    TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
    OneVsRestClassifier(LogisticRegression(C=10, class_weight="balanced", random_state=settings["seed"])),
)
model.fit(train["texts"], np.array(train["labels"]))
np.save(settings["output"], model.predict_proba(validation["texts"]))

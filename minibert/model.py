"""BERT, in the order the data flows: embeddings, attention, feed-forward, pooler, heads.

Read it beside "BERT: Pre-training of Deep Bidirectional Transformers" (Devlin et al. 2019, "the
paper") and "Attention Is All You Need" (Vaswani et al. 2017). Names are those of the paper's code,
google-research/bert, modeling.py. What a model is filled with is the business of `weights.py`.

Shapes:  B  texts in the batch         C  hidden_size           V  vocab_size
         T  tokens in each text        H  attention heads       L  labels
         I  intermediate_size          D  size of a head, C / H  R  tokens wanted: T, or 1
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from minibert.attention import fast_attention
from minibert.config import ACTIVATIONS, BertConfig
from minibert.dropout import Dropout, dropout
from minibert.inputs import check_inputs, visible_tokens
from minibert.weights import PreTrainedModel

OptTensor: TypeAlias = Tensor | None
Attended: TypeAlias = tuple[Tensor, OptTensor]  # (B, R, C), and (B, H, R, T) if asked for


class Embeddings(nn.Module):
    """Word + position + token type: the input representation (paper, figure 2)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        C = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, C, config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, C)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, C)
        self.layer_norm = nn.LayerNorm(C, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.size(1), device=input_ids.device)  # (T)
        x = self.word_embeddings(input_ids)  # (B, T) -> (B, T, C)
        x = x + self.token_type_embeddings(token_type_ids)  # (B, T, C)
        x = x + self.position_embeddings(positions)  # (B, T, C) + (T, C) -> (B, T, C)
        return self.dropout(self.layer_norm(x))


class SelfAttention(nn.Module):
    """Every token of x looks at every visible token of its text, `seen`, in H ways at once."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        C = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(C, C)
        self.key = nn.Linear(C, C)
        self.value = nn.Linear(C, C)
        self.output = nn.Linear(C, C)

    def forward(
        self, x: Tensor, seen: Tensor, visible: OptTensor, output_attentions: bool
    ) -> Attended:
        q, k, v = map(self.split_heads, self.project(x, seen))  # (B, H, R, D), (B, H, T, D) twice
        rate = self.dropout if self.training else 0.0
        probs = None
        if output_attentions:
            context, probs = explicit_attention(q, k, v, visible, rate)
        else:  # the same formula in less time and memory
            context = fast_attention(q, k, v, visible, rate)
        context = context.transpose(1, 2).flatten(2)  # (B, H, R, D) -> (B, R, H, D) -> (B, R, C)
        return self.output(context), probs

    def project(self, x: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
        return self.query(x), self.key(seen), self.value(seen)  # (B, R, C), (B, T, C) twice

    def split_heads(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        x = x.view(B, T, self.num_heads, C // self.num_heads)  # (B, T, C) -> (B, T, H, D)
        return x.transpose(1, 2)  # (B, T, H, D) -> (B, H, T, D)


def explicit_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: OptTensor, rate: float
) -> tuple[Tensor, Tensor]:
    """softmax(QK^T / sqrt(D)) V (Vaswani et al., equation 1): q (B, H, R, D), k, v (B, H, T, D).

    `visible` is (B, 1, 1, T), True where a token may be looked at, or None where all may. Returns
    the weighted sums (B, H, R, D) and the probabilities (B, H, R, T), after dropout at `rate`.
    """
    q = q / math.sqrt(q.size(3))  # before the product, where it is fewer numbers to divide
    scores = q @ k.transpose(2, 3)  # (B, H, R, D) @ (B, H, D, T) -> (B, H, R, T)
    if visible is not None:
        scores = scores + torch.where(visible, 0.0, -math.inf).to(scores.dtype)
    probs = dropout(torch.softmax(scores, dim=3), rate)
    return probs @ v, probs  # (B, H, R, T) @ (B, H, T, D) -> (B, H, R, D)


class FeedForward(nn.Module):
    """Two linear maps with an activation between, on each token by itself."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.intermediate(x))  # (B, T, C) -> (B, T, I)
        return self.output(x)  # (B, T, I) -> (B, T, C)


class Layer(nn.Module):
    """LayerNorm(x + sub-layer(x)), twice: the norm comes after the sum ("post-LayerNorm")."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self, x: Tensor, seen: Tensor, visible: OptTensor, output_attentions: bool
    ) -> Attended:
        attended, probs = self.attention(x, seen, visible, output_attentions)
        x = self.attention_norm(x + self.dropout(attended))
        x = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return x, probs


class Pooler(nn.Module):
    """One vector for a whole text: a dense layer on [CLS], shaped by next-sentence training."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.dense(x[:, 0]))  # (B, T, C) -> (B, C)


class BertOutput(NamedTuple):
    """What the encoder gives; hidden_states are the embeddings' output, then each layer's."""

    last_hidden_state: Tensor  # (B, R, C)
    pooler_output: OptTensor  # (B, C), None without pooler
    hidden_states: tuple[Tensor, ...] | None  # each (B, T, C), the last (B, R, C)
    attentions: tuple[Tensor, ...] | None  # each (B, H, T, T), the last (B, H, R, T)


class BertModel(PreTrainedModel):
    """The encoder: embeddings, layers, and a pooler unless `add_pooler` is False."""

    def __init__(self, config: BertConfig, add_pooler: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Pooler(config) if add_pooler else None
        self.initialize(self)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: OptTensor = None,
        token_type_ids: OptTensor = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        first_token_only: bool = False,
    ) -> BertOutput:
        """Encodes a batch of texts.

        Args:
            input_ids: (B, T) int64, ids of the vocabulary.
            attention_mask: (B, T), 1 for a token, 0 for padding; None if nothing is padded.
            token_type_ids: (B, T) int64, the segment of each token; None for all 0.
            output_hidden_states: also return what went into the first layer and came out of each.
            output_attentions: also return each layer's attention probabilities (slower).
            first_token_only: let the last layer compute [CLS] alone, a sixth of its products.

        Raises:
            ValueError: shapes that do not fit, too many tokens, ids or types out of range.
        """
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        check_inputs(self.config, input_ids, attention_mask, token_type_ids)
        visible = visible_tokens(attention_mask)  # (B, T) -> (B, 1, 1, T), or None
        x = self.embeddings(input_ids, token_type_ids)  # (B, T) -> (B, T, C)
        hidden_states, attentions = [x], []
        for layer in self.layers:
            wanted = x[:, :1] if first_token_only and layer is self.layers[-1] else x
            x, probs = layer(wanted, x, visible, output_attentions)
            attentions.append(probs)
            if output_hidden_states:
                hidden_states.append(x)
        pooled = None if self.pooler is None else self.pooler(x)
        states = tuple(hidden_states) if output_hidden_states else None
        return BertOutput(x, pooled, states, tuple(attentions) if output_attentions else None)


class SpanLogits(NamedTuple):
    """Two scores for every token, each (B, T); the softmax over a text's tokens comes later."""

    start_logits: Tensor
    end_logits: Tensor


class BertForQuestionAnswering(PreTrainedModel):
    """Where in a text the answer starts and where it ends (paper, section 4.2)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooler=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.initialize(self.qa_outputs)

    def forward(
        self, input_ids: Tensor, attention_mask: OptTensor = None, token_type_ids: OptTensor = None
    ) -> SpanLogits:
        x = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        return SpanLogits(*self.qa_outputs(x).unbind(2))  # (B, T, C) -> (B, T, 2) -> 2 of (B, T)


class BertForSequenceClassification(PreTrainedModel):
    """The class of a text or of a pair of texts (paper, section 4.1)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        rate = config.classifier_dropout
        self.bert = BertModel(config)
        self.dropout = Dropout(config.hidden_dropout_prob if rate is None else rate)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.initialize(self.classifier)

    def forward(
        self, input_ids: Tensor, attention_mask: OptTensor = None, token_type_ids: OptTensor = None
    ) -> Tensor:
        encoded = self.bert(input_ids, attention_mask, token_type_ids, first_token_only=True)
        return self.classifier(self.dropout(encoded.pooler_output))  # (B, C) -> (B, L)


class MaskedLMHead(nn.Module):
    """Scores every word of the vocabulary at every place (run_pretraining.py)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(self.activation(self.dense(x)))
        return self.decoder(x)  # (B, T, C) -> (B, T, V)


class BertForMaskedLM(PreTrainedModel):
    """Which word is behind a [MASK] (paper, section 3.1, task 1)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooler=False)
        self.mlm = MaskedLMHead(config)
        self.initialize(self.mlm)
        self.tie_weights()

    def forward(
        self, input_ids: Tensor, attention_mask: OptTensor = None, token_type_ids: OptTensor = None
    ) -> Tensor:
        return self.mlm(self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state)


class PreTrainingLogits(NamedTuple):
    """(B, T, V) for the masked words; (B, 2) for "does the second text follow the first?"."""

    prediction_logits: Tensor
    seq_relationship_logits: Tensor  # class 0: it follows


class BertForPreTraining(PreTrainedModel):
    """Both tasks that BERT is pre-trained on (paper, section 3.1)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.mlm = MaskedLMHead(config)
        self.nsp = nn.Linear(config.hidden_size, 2)
        self.initialize(self.mlm)
        self.initialize(self.nsp)
        self.tie_weights()

    def forward(
        self, input_ids: Tensor, attention_mask: OptTensor = None, token_type_ids: OptTensor = None
    ) -> PreTrainingLogits:
        x, pooled, *_ = self.bert(input_ids, attention_mask, token_type_ids)
        return PreTrainingLogits(self.mlm(x), self.nsp(pooled))  # (B, T, V) and (B, C) -> (B, 2)

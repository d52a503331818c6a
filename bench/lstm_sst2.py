"""What a small bidirectional LSTM makes of SST-2: the course's comparison with BERT.

    python bench/lstm_sst2.py --train train.tsv --dev dev.tsv --tokens all-MiniLM-L6-v2 \\
        --seed 0 --out lstm.json

It starts from nothing: no pre-trained vectors. Its tokens, batches and metrics are those of
train_cls.py with the same vocabulary.

Shapes: B texts, T tokens of the longest, E width of the embeddings, H of the LSTM's states (in each
of two directions), L labels.
"""

from __future__ import annotations

import torch
from plain_loop import options, read_task, report, train_and_score
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from minibert import hub
from minibert.tokenizer import load_tokenizer

E, H = 128, 128
DROPOUT = 0.3


class LSTMClassifier(nn.Module):
    """Embeddings, a bidirectional LSTM, the largest value of each state over the tokens, linear."""

    def __init__(self, vocab_size: int, num_labels: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, E)
        self.lstm = nn.LSTM(E, H, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(2 * H, num_labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        x = self.dropout(self.embeddings(input_ids))  # (B, T) -> (B, T, E)
        lengths = attention_mask.sum(dim=1)  # (B)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, _ = self.lstm(packed)
        x, _ = pad_packed_sequence(states, batch_first=True)  # (B, T, 2H)
        x = x.masked_fill(attention_mask[:, :, None] == 0, float("-inf"))
        best = x.max(dim=1).values  # (B, T, 2H) -> (B, 2H)
        logits: Tensor = self.classifier(self.dropout(best))  # (B, 2H) -> (B, L)
        return logits


def main() -> None:
    parser = options(__doc__, epochs=3, batch_size=64, lr=1e-3, max_length=128)
    parser.add_argument("--tokens", required=True, help="a checkpoint, for its vocabulary alone")
    args = parser.parse_args()
    tokenizer = load_tokenizer(hub.find(args.tokens))
    task = read_task(tokenizer, args)
    torch.manual_seed(args.seed)
    model = LSTMClassifier(tokenizer.get_vocab_size(), len(task.labels))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {"settings": vars(args), "parameters": parameters, **train_and_score(model, task, args)}
    report(facts, args.out)


if __name__ == "__main__":
    main()

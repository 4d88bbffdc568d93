"""The workload table (bench/workloads.csv), as qconvc bench reads it: same rows, same order."""
import csv
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    name: str
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    pad_left: int
    pad_right: int
    dilation: int
    groups: int
    width: int
    batch: int

    @property
    def width_out(self):
        padded = self.width + self.pad_left + self.pad_right
        return (padded - self.dilation * (self.kernel_size - 1) - 1) // self.stride + 1

    @property
    def macs(self):
        per_output = self.in_channels // self.groups * self.kernel_size
        return self.batch * self.out_channels * per_output * self.width_out


def read_rows(path):
    with open(path, newline="") as file:
        return [
            Row(name=f"{r['name']}/{r['layer']}", in_channels=int(r["C_in"]), out_channels=int(r["C_out"]),
                kernel_size=int(r["K"]), stride=int(r["stride"]), pad_left=int(r["pad"]),
                pad_right=int(r.get("pad_right") or r["pad"]), dilation=int(r["dilation"]), groups=int(r["groups"]),
                width=int(r["W_in"]), batch=int(r.get("N") or 1)) for r in csv.DictReader(file)
        ]

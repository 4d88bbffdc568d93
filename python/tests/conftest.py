import pytest
import torch


@pytest.fixture(autouse=True)
def reproducible():
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch._dynamo.reset()

"""World: the communicator, this rank's device and the transport, decided once and handed down."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from hpc_sla.distributed.agreement import Agreement
from hpc_sla.distributed.arguments import tensor_of
from hpc_sla.distributed.choose_transport import (
    make_transport,
    own_gpus,
    refuse_mixed_devices,
    transport_name,
)
from hpc_sla.distributed.communicators import Closed, SharedComm, raise_closed, share
from hpc_sla.distributed.forgotten import Forgotten, Tags, digest_of
from hpc_sla.distributed.host_numbers import HostNumbers
from hpc_sla.distributed.launcher import refuse_lone_ranks, sleep_where_crowded
from hpc_sla.distributed.leaving import abort_on_errors
from hpc_sla.distributed.node import choose_device, share_cores
from hpc_sla.distributed.reductions import AllSum, Replicate, tagged
from hpc_sla.distributed.replicated import Replicated
from hpc_sla.distributed.shared import Shared
from hpc_sla.distributed.transport import Transport
from hpc_sla.distributed.transport.serial import SerialComm
from hpc_sla.kernels.modes import entry
from hpc_sla.messages.sparse_exchange import sparse_exchange
from hpc_sla.observe.heartbeat import beat

if TYPE_CHECKING:
    from mpi4py import MPI

# mpi4py is imported where a communicator of MPI's comes in: its import starts MPI, and a World of
# one process needs no MPI library.

T = TypeVar("T")


class World(Shared, HostNumbers):
    """The ranks that work together, where each computes, and how they exchange data.

    **Collective** over `comm`.

    Parameters
    ----------
    comm : MPI.Comm, optional
        Any intra-communicator; default `MPI.COMM_WORLD`. It is duplicated, once for all Worlds on
        it, so this package's messages cannot meet yours. `World.serial()` does without MPI.
    device : str or torch.device
        `auto`: this rank's GPU (by its rank on the node, modulo the GPUs it can see) where
        there is one, else the CPU. Or `cpu`, `cuda`, `cuda:1`.
    transport : {"auto", "mpi", "gloo", "nccl"}
        `auto`: `nccl` where every rank has a GPU of its own, else `mpi`.

    Attributes
    ----------
    comm : MPI.Comm
    rank, size : int
    ranks_on_node : int
    device : torch.device
    transport : Transport
        Its `name` says which it is.

    Raises
    ------
    InputError
        On every rank: an unknown device or transport, CUDA asked for where there is none, or
        `nccl` where ranks share a GPU; without `comm`, a launcher that started several processes
        of which MPI knows nothing (torchrun, or srun without PMI).

    Notes
    -----
    Where several ranks run, an exception that nobody catches prints its traceback and aborts
    the job, so that the other ranks do not wait for ever; a SystemExit with an error on some ranks
    does so after a while, if the others do not leave, too. Unless `OMP_NUM_THREADS` is set, the
    first World of a process shares out the node's cores evenly between its ranks.
    """

    def __init__(
        self,
        comm: MPI.Comm | SerialComm | None = None,
        device: str | torch.device = "auto",
        transport: str = "auto",
    ) -> None:
        lone = comm is None
        if not isinstance(comm, SerialComm):
            sleep_where_crowded()
            from mpi4py import MPI

            comm = MPI.COMM_WORLD if comm is None else comm
            abort_on_errors()
        self._shared: SharedComm = share(comm)
        self.comm: MPI.Comm = cast("MPI.Comm", self._shared.comm)
        self.rank: int = self.comm.rank
        self.size: int = self.comm.size
        self._thinned: dict[int, World | None] = {}
        self._elsewhere: dict[torch.device, World] = {}
        self._home: World | None = None
        self.forgotten = Forgotten(self)
        node_rank, self.ranks_on_node = self._shared.node
        share_cores(self.ranks_on_node)
        with self.agree("World", transport=transport):
            if lone:
                refuse_lone_ranks(self.size, MPI.get_vendor()[0])
            self.device: torch.device = choose_device(device, node_rank)
        refuse_mixed_devices(self)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        name = transport_name(self, transport)
        self.transport: Transport = make_transport(name, self._shared, self.device)
        self._shared.enter()

    @classmethod
    def serial(cls, device: str | torch.device = "auto") -> World:
        """A World of this process alone, whatever launched it, without MPI. Local.

        Neither mpi4py nor an MPI library is needed or started. Everything that takes a World
        takes this one; **Collective** then means nothing. Its transport is `serial`.

        Parameters
        ----------
        device : str or torch.device
            As for `World`; under a launcher `auto` still gives the ranks of a node a GPU each.

        Raises
        ------
        InputError
            An unknown device, or CUDA asked for where there is none.

        Examples
        --------
        >>> import hpc_sla as hs
        >>> hs.World.serial("cpu")
        World(rank=0, size=1, device='cpu', transport='serial')
        """
        return cls(SerialComm(), device)

    def own_gpus(self) -> bool:
        """Whether each rank has a GPU that no other rank uses. **Collective.**"""
        return own_gpus(self)

    # Reductions

    @entry
    def all_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of every rank's `tensor`, the same on every rank. **Collective.**

        Differentiable. Its gradient with respect to each rank's `tensor` is the gradient of
        the (replicated) result, counted once: see `replicate`, whose adjoint this is.

        Parameters
        ----------
        tensor : torch.Tensor
            Per rank; the same shape and dtype on every rank.

        Returns
        -------
        torch.Tensor
            Replicated.

        Warns
        -----
        PartialGradientWarning
            In backward, once for a parameter: it looks the same on all ranks and did not go
            through `replicate`, so that its gradient is this rank's part. On the CPU only.
        """
        return self._all_sum(tensor_of(tensor, "tensor", None, self.device))

    def _all_sum(self, tensor: torch.Tensor, *lengths: int) -> torch.Tensor:
        """`all_sum`, of what was computed from this rank's parts of such lengths."""
        if not tagged(self, tensor):
            return AllSum.apply(tensor, self, None)
        look = self.forgotten.look(tensor, lengths)
        tags = Tags((float(len(look.new)), 0.0, 0.0))
        total = AllSum.apply(tensor, self, tags)
        if tags.sums[0]:
            self.forgotten.compare(look)
        look.warn_behind(total)
        return total

    @entry
    def replicate(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mark a value that is the same on every rank. **Collective** in backward.

        Forward it returns `tensor` itself. Its gradient is summed over ranks, so a parameter
        (a material constant, the weights of a network) gets the whole gradient on every rank.

        Parameters
        ----------
        tensor : torch.Tensor
            Replicated: the caller holds the same value on every rank.

        Returns
        -------
        torch.Tensor
            To be used in each rank's own computation.

        Raises
        ------
        InputError
            On every rank, in backward: tensors that differ in shape or dtype between ranks.

        Warns
        -----
        PartialGradientWarning
            In backward: a leaf whose values differ between ranks. On the CPU only.
        """
        tensor = tensor_of(tensor, "tensor", None, self.device)
        digest = None
        parameter = tensor.is_leaf and tensor.requires_grad and torch.is_grad_enabled()
        if parameter and tagged(self, tensor):
            digest = digest_of(tensor)
        return Replicate.apply(tensor, self, digest)

    @entry
    def replicate_module(self, module: torch.nn.Module, broadcast: bool = True) -> Replicated:
        """A network that every rank holds and calls on its own data. **Collective.**

        Calling the result is calling `module` with each of its parameters gone through
        `replicate`: their gradients are whole, and the same, on every rank. The parameters remain
        `module`'s own, so an optimiser takes `module.parameters()`; all their gradients are summed
        in one reduction, which every rank must reach in backward. What uses the parameters
        directly (a penalty on their size, say) is a computation that all ranks do alike, and stays
        out of that sum. Differentiable any number of times.

        Parameters
        ----------
        module : torch.nn.Module
            The same kind, with parameters of the same shapes, on every rank's device.
        broadcast : bool
            Replicated. Whether rank 0's parameters and buffers are copied to all ranks now, so that
            a different seed does not matter. While it trains, rank 0's buffers (running means) are
            copied at every call, too, which is then **collective**.

        Returns
        -------
        Replicated
            A torch.nn.Module; `module` is its attribute `module`.

        Raises
        ------
        InputError
            On every rank: not a module, parameters that differ in name, shape or dtype between
            ranks, or are on another device.
        """
        return Replicated(module, self, broadcast)

    # Set-up communication

    @entry
    def gather_objects(self, value: T) -> list[T] | None:
        """Every rank's small object, as a list on rank 0. **Collective.**"""
        return self.comm.gather(value)

    @entry
    def on_root(self, function: Callable[[], T]) -> T:
        """Run `function` on rank 0 and give every rank its (small) result. **Collective.**

        To rank 0 as it is, to others through pickle.

        Raises
        ------
        HpcSlaError
            On every rank, where rank 0 raised it.
        """
        value = None
        with self.agree():
            if self.rank == 0:
                value = function()
        sent = self.comm.bcast(value)
        return cast("T", value if self.rank == 0 else sent)

    @entry
    def barrier(self) -> None:
        """Wait for every rank. **Collective.**"""
        self.comm.Barrier()

    @entry
    def sparse_exchange(self, messages: dict[int, Any]) -> dict[int, Any]:
        """Messages to ranks that do not expect them. **Collective.** See `sparse_exchange`."""
        beat()
        return sparse_exchange(self.comm, messages, next(self._shared.exchanges))

    def agree(self, function: str = "", /, **arguments: Any) -> Agreement:
        """Run a local block; an `HpcSlaError` on any rank is raised on all. **Collective.**

        The block itself must not communicate: a rank that raises leaves it early. Other
        exceptions are bugs, not answers: they pass through and abort the job. What the block gives
        to `say` every rank may hear afterwards.

        Parameters
        ----------
        function : str
            The public function that begins here, if one does.
        **arguments
            Replicated. Whatever decides what it communicates; of tensors the dtype and the
            columns count, of objects the class.

        Raises
        ------
        InputError
            On every rank: ranks are in different functions, or differ in an argument.
        """
        return Agreement(self.comm, function, arguments)

    # Fewer ranks

    def thinned(self, ranks: int) -> World | None:
        """The World of every few-th rank; None on the others. **Collective.**

        Made once for each number: MPI and nccl take long to make a communicator, and can make
        only so many.

        Parameters
        ----------
        ranks : int
            Replicated: how many take part, at least 1 and below `size`. Number i of them is
            `i * size // ranks` here.
        """
        if ranks not in self._thinned:
            inner = self._shared.thinned(ranks)
            self._thinned[ranks] = None
            if inner is not None:
                self._thinned[ranks] = World(inner, self.device, self.transport.name)
        return self._thinned[ranks]

    @entry
    def on(self, device: str | torch.device) -> World:
        """The World of the same ranks on another device. **Collective.** Made once for each.

        Made again where that one has been closed. Itself, where this is its device. "cuda" is the
        GPU that `device="auto"` finds.

        Raises
        ------
        InputError
            On every rank: an unknown device, CUDA asked for where there is none.
        """
        if self._home is not None:
            return self._home.on(device)
        with self.agree("on", device=str(device).split(":")[0]) as agreed:
            wanted = choose_device(device, self._shared.node[0])
            there = self._elsewhere.get(wanted)
            agreed.say((wanted == self.device, there is not None and not there.closed))
        if all(here for here, _ in agreed.heard):
            return self
        if not all(known for _, known in agreed.heard):
            self._elsewhere[wanted] = World(self.comm, wanted)
            self._elsewhere[wanted]._home = self
        return self._elsewhere[wanted]

    # Life

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return isinstance(self.comm, Closed)

    def close(self) -> None:
        """Free the transport; the World is unusable after. **Collective.**

        Optional at the end of a program: what must be gone before MPI ends goes by itself.
        """
        if not self.closed:
            for world in (*self._thinned.values(), *self._elsewhere.values()):
                if world is not None:
                    world.close()
            self.transport.close()
            self.comm, self.transport = cast("MPI.Comm", Closed()), cast("Transport", Closed())
            self._shared.leave()

    def check_open(self) -> None:
        """Raise where the World has been closed. Local."""
        if self.closed:
            raise_closed()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an exception other ranks may be anywhere, so nothing collective is safe.
        if error is None:
            self.close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        if isinstance(self.comm, SerialComm):
            return World.serial, (str(self.device),)
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        how = "closed" if self.closed else f"transport={self.transport.name!r}"
        return f"World(rank={self.rank}, size={self.size}, device={str(self.device)!r}, {how})"

"""The slot map of a `redis.asyncio.RedisCluster`, and connections to its nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.asyncio.connection import SSLConnection

from redis_state.redis_py.credentials import on_new_credentials
from redis_state.redis_py.slot_map import check_slot_map
from redis_state.redis_py.standalone import close_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_state.redis_py.topology import OpenedConnection, PrimaryObserver, Server, Topology


class NodeServer:
    """One node of a cluster, connected to with the settings of the client.

    Args:
        node: A `redis.asyncio.cluster.ClusterNode`.
    """

    def __init__(self, node: Any) -> None:
        self._node = node
        self.host = str(node.host)
        self.name = str(node.name)
        self.tls = issubclass(node.connection_class, SSLConnection)

    async def open(self, *, wait: bool) -> OpenedConnection:
        connection = self._node.connection_class(**self._node.connection_kwargs)
        try:
            await connection.connect()
        except BaseException:
            await close_connection(connection)
            raise
        return connection

    async def close(self, connection: OpenedConnection) -> None:
        await close_connection(connection)


class Cluster:
    """The slot map.

    Args:
        client: A `redis.asyncio.RedisCluster`.
        owned: Whether this library made it, and closes it.
    """

    is_cluster = True

    def __init__(self, client: Any, *, owned: bool) -> None:
        self._client = client
        self._owned = owned
        client.set_response_callback("CLUSTER SLOTS", check_slot_map)  # of the nodes, which redis-py has none for
        self._map = client.nodes_manager
        self._servers: dict[str, NodeServer] = {}
        self._learned = False
        self._call: Callable[[], None] | None = None
        self.name = ", ".join(sorted(self._map.startup_nodes))
        self.tls = issubclass(self._map.connection_kwargs["connection_class"], SSLConnection)

    def _server(self, node: Any) -> NodeServer:
        server = self._servers.get(node.name)
        if server is None:
            server = self._servers[node.name] = NodeServer(node)
            if self._call is not None:
                on_new_credentials(self._map.connection_kwargs.get("credential_provider"), node, self._call)
        return server

    def route(self, slot: int | None) -> Server | None:
        if not self._learned:
            return None
        if slot is None:
            return self._server(self._map.default_node)
        nodes = self._map.slots_cache.get(slot)
        return self._server(nodes[0]) if nodes else None

    def named(self, name: str) -> Server | None:
        return self._servers.get(name)

    def at(self, host: str, port: int) -> Server | None:
        host, port = self._map.remap_host_port(host, port)
        node = self._map.get_node(host=host, port=port)
        if node is None:  # it joined after the map was learned
            sample = self._map.default_node
            node = type(sample)(host, port, "primary", **self._map.connection_kwargs)
        return self._server(node)

    def names(self) -> list[str]:
        if not self._learned:
            return []
        return [self._server(node).name for node in self._map.get_nodes_by_server_type("primary")]

    def as_cluster(self) -> Topology:
        return self

    async def learn(self, failed: str) -> None:
        # The map alone: all of the client would ask for the description of every command as well.
        await self._map.initialize(last_failed_node_name=failed or None)
        self._learned = True
        alive = set(self._map.nodes_cache)
        self._servers = {name: server for name, server in self._servers.items() if name in alive}

    def watch(self, observer: PrimaryObserver) -> None:
        """The servers themselves redirect."""

    def on_new_credentials(self, call: Callable[[], None]) -> None:
        self._call = call

    async def aclose(self) -> None:
        if self._owned:
            await self._map.aclose()
            await self._map.aclose("startup_nodes")

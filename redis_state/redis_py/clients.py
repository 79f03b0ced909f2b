"""The clients of redis-py for a configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from redis_state.config.servers import RedisConfig, split_address
from redis_state.redis_py.cluster import Cluster
from redis_state.redis_py.sentinel import SentinelPrimary, Sentinels
from redis_state.redis_py.standalone import Standalone
from redis_state.redis_py.topology import Topology


def connect(config: RedisConfig) -> Topology:
    """The clients for a configuration. Nothing is connected yet.

    They retry nothing by themselves: the transport knows what may be repeated. They speak RESP2, in which a server
    sends nothing unasked, and take part in no maintenance notifications, for which redis-py would leave replies unread.
    """
    if not isinstance(config, RedisConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the configuration must be a RedisConfig, not {type(config).__name__}")
    common: dict[str, Any] = {
        "username": config.username,
        "password": config.password,
        "credential_provider": config.credential_provider,
        "socket_connect_timeout": config.dial_timeout,
        "socket_timeout": config.read_timeout,
        "protocol": 2,
    }
    tls = _tls(config) if config.tls else {}
    silent = MaintNotificationsConfig(enabled=False)
    if config.is_cluster:
        nodes = [ClusterNode(*split_address(address, 6379)) for address in config.addrs]
        client = RedisCluster(
            startup_nodes=nodes,
            require_full_coverage=False,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=silent,
            **common,
            **tls,
        )
        return Cluster(client, owned=True)
    pool: dict[str, Any] = {
        **common,
        **tls,
        "db": config.db,
        "max_connections": config.pool_size,
        "retry": Retry(NoBackoff(), 0),
        "maint_notifications_config": silent,
    }
    if config.master_name:
        sentinels: Any = Sentinels(
            [split_address(address, 26379) for address in config.sentinel_addrs],
            sentinel_kwargs={
                "username": config.sentinel_username,
                "password": config.sentinel_password,
                "socket_connect_timeout": min(1.0, config.dial_timeout),
                "socket_timeout": min(1.0, config.read_timeout),
                "retry": Retry(NoBackoff(), 0),
                "protocol": 2,
                "maint_notifications_config": silent,
                **tls,
            },
        )
        return SentinelPrimary(sentinels.master_for(config.master_name, **pool), owned=True)
    if config.unix_socket:
        return Standalone(Redis(unix_socket_path=config.unix_socket, **pool), owned=True)
    host, port = split_address(config.addrs[0], 6379)
    return Standalone(
        Redis(host=host, port=port, **pool), owned=True, cluster=lambda: connect(replace(config, cluster=True))
    )


def _tls(config: RedisConfig) -> dict[str, Any]:
    for name in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
        path: str | None = getattr(config, name)
        if path is not None and not Path(path).is_file():
            raise ValueError(f"{name} names no file: {path}")
    return {
        "ssl": True,
        "ssl_ca_certs": config.tls_ca_file,
        "ssl_certfile": config.tls_cert_file,
        "ssl_keyfile": config.tls_key_file,
        "ssl_cert_reqs": "required" if config.tls_verify else "none",
        "ssl_check_hostname": config.tls_verify,
    }


def topology_of(client: Any) -> Topology:
    """The topology that a client leads to which a caller has made, or the topology itself.

    Raises:
        TypeError: It is no client of redis.asyncio, or decodes responses.
    """
    if isinstance(client, Standalone | Cluster):
        return client
    if isinstance(client, RedisCluster):
        settings: dict[str, Any] = client.get_connection_kwargs()
        topology: Topology = Cluster(client, owned=False)
    elif isinstance(client, Redis):
        settings = client.connection_pool.connection_kwargs
        is_watched = isinstance(client.connection_pool, SentinelConnectionPool)
        topology = (SentinelPrimary if is_watched else Standalone)(client, owned=False)
    else:
        raise TypeError(f"client must be a redis.asyncio Redis or RedisCluster, not {type(client).__name__}")
    if settings.get("decode_responses"):
        raise TypeError("the client has decode_responses=True; states are bytes: make it without that")
    return topology

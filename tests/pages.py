"""A page of a server over HTTP, asked for as a probe or Prometheus does."""

import asyncio


async def page(address: str, path: str, method: str = "GET") -> tuple[int, str, str]:
    """Its status, its headers and its text."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    head, _, text = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), head, text

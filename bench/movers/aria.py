"""aria2 from nginx over HTTPS on loopback: a web server's file in several connections."""

import subprocess
from pathlib import Path

from bench.movers.base import Load, Moved
from bench.movers.certificate import write_certificate
from bench.movers.process import Meter, Process, program, run_metered
from bench.movers.waiting import until_listening
from console.stage import free_port

CONNECTIONS = 4
FILES_AT_ONCE = 8
CONFIGURATION = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes auto;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl; root {root};
    ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.3;
  }}
}}
"""


class AriaMover:
    """nginx as a user would run it, and one `aria2c`, from its start to its end."""

    name = "aria2"

    def __init__(self) -> None:
        self._nginx, self._aria = program("nginx"), program("aria2c")

    def version(self) -> str:
        aria = subprocess.run([self._aria, "--version"], capture_output=True, check=True).stdout
        nginx = subprocess.run([self._nginx, "-v"], capture_output=True, check=True).stderr
        return f"{' '.join(aria.decode().split()[0:3:2])}, {nginx.decode().split(': ')[1].strip()}"

    def move(self, load: Load, folder: Path) -> Moved:
        port, pem, result = free_port(), write_certificate(folder), folder / "result"
        configuration = folder / "nginx.conf"
        root = load.path.parent
        configuration.write_text(
            CONFIGURATION.format(folder=folder, port=port, pem=pem, root=root), "utf-8"
        )
        urls = folder / "urls"
        urls.write_text("".join(_lines(load, f"https://127.0.0.1:{port}")), "utf-8")
        command = [
            self._aria,
            f"--ca-certificate={pem}",
            f"--max-connection-per-server={CONNECTIONS}",
            f"--split={CONNECTIONS}",
            f"--max-concurrent-downloads={FILES_AT_ONCE}",
            "--file-allocation=none",
            "--quiet",
            f"--dir={result}",
            f"--input-file={urls}",
        ]
        own = ["-c", str(configuration), "-p", str(folder)]
        with Process([self._nginx, *own, "-g", "user root;"], folder) as server:
            until_listening(port)
            sending = Meter(server.pid)
            seconds, receiver = run_metered(command, folder)
            sender = sending.usage()
        return Moved(seconds, sender, receiver, result / load.path.name)


def _lines(load: Load, base: str) -> list[str]:
    """What aria2 is to fetch: each address, then where to."""
    if not load.is_folder:
        return [f"{base}/{load.path.name}\n  out={load.path.name}\n"]
    root = load.path.parent
    names = [str(path.relative_to(root)) for path in load.path.rglob("*") if path.is_file()]
    return [f"{base}/{name}\n  out={name}\n" for name in names]

"""A service in which, on SIGUSR1, a thread hangs for ever; `python -m tests.server.hanging`."""

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from service import logs
from service.app import create_app
from service.process import server_of
from service.settings import Settings

REASON = "a computation that nobody waits for has not ended within 10 s"


def main():
    settings = Settings()
    logs.configure(settings.log_level, settings.log_format)
    app = create_app(settings)
    server, engine = server_of(app, settings), app.state.shared.engine
    executor = ThreadPoolExecutor(1)

    def hang(*_):
        # Two threads that never return: one is joined by Python, the other by concurrent.futures.
        executor.submit(threading.Event().wait)
        threading.Thread(target=threading.Event().wait).start()
        threading.Thread(target=engine.on_hang, args=(REASON,)).start()

    signal.signal(signal.SIGUSR1, hang)
    server.run()
    sys.exit(server.exit_code)


if __name__ == "__main__":
    main()

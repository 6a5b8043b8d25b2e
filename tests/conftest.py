def pytest_addoption(parser):
    parser.addoption('--kills', type=int, default=40, help='how often test_kill kills the trainer (default: 40)')
    parser.addoption('--load', type=float, default=60, help='how many seconds the server is under load (default: 60)')

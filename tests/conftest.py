def pytest_addoption(parser):
    parser.addoption('--kills', type=int, default=40, help='how often test_kill kills the trainer (default: 40)')

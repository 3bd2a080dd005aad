# Lint and the quick tests.
default: lint test

lint:
    make lint

test:
    make test

demo:
    make demo

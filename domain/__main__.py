"""`python -m domain`: the demo of this business."""

from domain.demo.command import program

if __name__ == "__main__":
    program()(prog_name="python -m domain")

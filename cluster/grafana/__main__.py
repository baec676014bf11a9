from cluster.grafana import FOLDER
from cluster.grafana.boards import BOARDS

for board in BOARDS:
    (FOLDER / f"{board.uid}.json").write_text(board.json())
    print(FOLDER / f"{board.uid}.json")

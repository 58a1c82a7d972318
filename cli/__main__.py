from tinyohem_cli.main import run

run()

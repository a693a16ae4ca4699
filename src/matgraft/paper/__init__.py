"""The study of Krawczuk and Venturi (2020), rerun, with the published value beside ours."""

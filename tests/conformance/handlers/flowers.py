NAMES = "setosa", "versicolor", "virginica"

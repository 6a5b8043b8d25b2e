NAMES = 'setosa', 'versicolor', 'virginica'

"""The mean of incomes, one of which is a typing error."""

from median_of_means import MedianOfMeans

incomes = [31.0, 28.5, 40.2, 35.1, 29.9, 3510.0, 33.3, 27.4, 38.8]
print("average of blocks, their median:", MedianOfMeans(3)(incomes))
print("average:", sum(incomes) / len(incomes))

"""Search: widths are chosen by trying models that are put together from levels made beforehand."""

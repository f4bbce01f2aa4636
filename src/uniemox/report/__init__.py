"""Reports: charts as bytes, and pages of one self-contained HTML file."""
